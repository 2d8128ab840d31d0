// Netload makes the network load of `make bench`, in whatever netns it is started:
//
//	netload dns SERVER NAME CLIENTS TIME     queries a second that are answered with an address
//	netload sink ADDRESS                     takes TCP connections and counts bytes until killed
//	netload send ADDRESS TIME                MB a second that a sink says it got
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "netload:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 5 && args[0] == "dns":
		clients, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(args[4])
		if err != nil {
			return err
		}
		return queries(args[1], args[2], clients, d)
	case len(args) == 2 && args[0] == "sink":
		return sink(args[1])
	case len(args) == 3 && args[0] == "send":
		d, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return send(args[1], d)
	}
	return errors.New("usage: netload dns SERVER NAME CLIENTS TIME | sink ADDRESS | send ADDRESS TIME")
}

// queries asks with a number of clients, each one question at a time.
func queries(server, name string, clients int, d time.Duration) error {
	query, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		return err
	}
	var answered, lost atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range clients {
		c, err := net.Dial("udp", server)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		wg.Go(func() {
			mine := append([]byte(nil), query...)
			for id := uint16(1); time.Since(begin) < d; id++ {
				binary.BigEndian.PutUint16(mine, id)
				if ask(c, mine, id) {
					answered.Add(1)
				} else {
					lost.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if lost.Load() > 0 {
		fmt.Fprintf(os.Stderr, "netload: %d queries of %d were not answered with an address\n", lost.Load(), lost.Load()+answered.Load())
	}
	fmt.Printf("%.0f\n", float64(answered.Load())/time.Since(begin).Seconds())
	return nil
}

// ask reports whether a query is answered with an address within a second.
func ask(c net.Conn, query []byte, id uint16) bool {
	if _, err := c.Write(query); err != nil {
		return false
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 1500)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return false
		}
		if n > 12 && binary.BigEndian.Uint16(buf) == id {
			return binary.BigEndian.Uint16(buf[6:]) > 0
		}
	}
}

// sink answers each connection, once its sender has closed, with how many bytes came.
func sink(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<20))
			_, _ = fmt.Fprintln(c, n)
			_ = c.Close()
		}()
	}
}

func send(address string, d time.Duration) error {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	begin, buf := time.Now(), make([]byte, 1<<20)
	if err := c.SetDeadline(begin.Add(d + 30*time.Second)); err != nil {
		return err
	}
	for time.Since(begin) < d {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var n int64
	if _, err := fmt.Fscan(c, &n); err != nil {
		return fmt.Errorf("read what the sink counted: %w", err)
	}
	fmt.Printf("%.0f\n", float64(n)/1e6/time.Since(begin).Seconds())
	return nil
}
