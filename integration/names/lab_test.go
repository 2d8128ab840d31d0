// Package names checks, from inside containers, that names resolve: whoever comes, goes and
// is renamed, and with both daemons dead.
package names

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"strata/integration/harness"
)

// The types that are asked for.
const (
	typeA    = dnsmessage.TypeA
	typeAAAA = dnsmessage.TypeAAAA
	typePTR  = dnsmessage.TypePTR
	typeSRV  = dnsmessage.TypeSRV
)

// within runs fn on a thread inside the netns at path: sockets that it opens stay there.
func within(path string, fn func() error) error {
	result := make(chan error, 1) // one result
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		f, err := os.Open(path)
		if err != nil {
			result <- err
			return
		}
		defer func() { _ = f.Close() }()
		if _, _, errno := syscall.RawSyscall(sysSetns, f.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			result <- os.NewSyscallError("setns", errno)
			return
		}
		result <- fn()
	}()
	return <-result
}

// sysSetns is the number of setns(2).
var sysSetns = map[string]uintptr{"amd64": 308, "arm64": 268}[runtime.GOARCH]

// client asks the DNS server of one netns.
type client struct {
	netns string
	conn  net.Conn
	id    uint16
	first string // address of the last answer
}

// netnsOf returns the netns of a container of the stack.
func netnsOf(s *harness.Stack, container string) string {
	id := s.OK("engine", "inspect", "--format", "{{.Id}}", container)
	return filepath.Join(s.Root, "run/engine/netns", id)
}

func dial(t *testing.T, netns, network string) *client {
	t.Helper()
	c := &client{netns: netns}
	if err := within(netns, func() (err error) { c.conn, err = net.Dial(network, "127.0.0.11:53"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

// ask sends one query and returns code and records as text, sorted.
func (c *client) ask(name string, kind dnsmessage.Type) (string, error) {
	c.id++
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: c.id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(strings.TrimSuffix(name, ".") + "."), Type: kind, Class: dnsmessage.ClassINET}},
	}
	query, err := m.Pack()
	if err != nil {
		return "", err
	}
	_ = c.conn.SetDeadline(time.Now().Add(5 * time.Second))
	stream := c.conn.LocalAddr().Network() == "tcp"
	if stream {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := c.conn.Write(query); err != nil {
		return "", err
	}
	for {
		buf := make([]byte, 65535)
		var n int
		if stream {
			if _, err = io.ReadFull(c.conn, buf[:2]); err == nil {
				n, err = io.ReadFull(c.conn, buf[:binary.BigEndian.Uint16(buf)])
			}
		} else {
			n, err = c.conn.Read(buf)
		}
		if err != nil {
			return "", err
		}
		if err := m.Unpack(buf[:n]); err != nil {
			return "", err
		}
		if m.ID == c.id {
			c.first = ""
			if len(m.Answers) > 0 {
				c.first = text(dnsmessage.Message{Answers: m.Answers[:1]})
			}
			return text(m), nil
		}
	}
}

func text(m dnsmessage.Message) string {
	var out []string
	for _, r := range m.Answers {
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(body.AAAA).String())
		case *dnsmessage.PTRResource:
			out = append(out, body.PTR.String())
		case *dnsmessage.SRVResource:
			out = append(out, fmt.Sprintf("%s%d", body.Target, body.Port))
		}
	}
	slices.Sort(out)
	code := strings.TrimPrefix(m.RCode.String(), "RCode")
	if m.Truncated {
		code += "+cut"
	}
	return strings.TrimSpace(code + " " + strings.Join(out, " "))
}

func (c *client) want(t *testing.T, name string, kind dnsmessage.Type, want string) {
	t.Helper()
	if got, err := c.ask(name, kind); err != nil || got != want {
		t.Errorf("%s %s: %q, %v, want %q", name, kind, got, err, want)
	}
}

// upstream runs a DNS server at 127.0.0.1:53 of the stack's netns until the test ends. It
// knows www.example.org and, with 200 addresses and only by TCP, big.example.org.
func upstream(t *testing.T, s *harness.Stack) {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	err := within("/run/netns/"+s.Netns, func() (err error) {
		if udp, err = net.ListenPacket("udp", "127.0.0.1:53"); err == nil {
			tcp, err = net.Listen("tcp", "127.0.0.1:53")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := answer(buf[:n], false); reply != nil {
				_, _ = udp.WriteTo(reply, from)
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 65535)
			if _, err := io.ReadFull(c, buf[:2]); err == nil {
				n := int(binary.BigEndian.Uint16(buf))
				if _, err := io.ReadFull(c, buf[:n]); err == nil {
					reply := answer(buf[:n], true)
					_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
				}
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_, _ = udp.Close(), tcp.Close()
		wg.Wait()
	})
}

func answer(query []byte, tcp bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	n := map[string]int{"www.example.org.": 1, "big.example.org.": 200}[strings.ToLower(q.Name.String())]
	switch {
	case n == 0:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == typeA && n > 20 && !tcp:
		m.Truncated = true
	case q.Type == typeA:
		for i := range n {
			h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, byte(i + 1)}}})
		}
	}
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}

// httpIn returns a client whose connections come from a netns.
func httpIn(netns string) *http.Client {
	dial := func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = within(netns, func() (err error) {
			var d net.Dialer
			c, err = d.DialContext(ctx, network, address)
			return err
		})
		return c, err
	}
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}
