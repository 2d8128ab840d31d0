package stdio

import (
	"bytes"
	"net"
	"sync"
	"time"

	"strata/pkg/shimio"
	"strata/pkg/stdcopy"
)

// queueSize is how many bytes may wait for a client before the process waits too.
const queueSize = 64 << 10

// patience is how long a client may take no byte at all after the process has ended.
const patience = time.Minute

var past = time.Unix(1, 0)

// client is one attached connection. Bytes are queued by the pumps and written by
// write; so one slow client does not keep others from what is queued for them.
type client struct {
	conn   *net.UnixConn
	hello  shimio.Hello
	framed bool

	mu      sync.Mutex
	changed sync.Cond
	queue   []byte
	ending  bool // write returns when the queue is empty
	gone    bool // nothing is queued any more
	free    bool // the process has ended: enqueue does not wait
}

func newClient(conn *net.UnixConn, hello shimio.Hello, terminal bool) *client {
	c := &client{conn: conn, hello: hello, framed: !terminal}
	c.changed.L = &c.mu
	return c
}

// enqueue queues p, which it copies. It waits while the queue is full.
func (c *client) enqueue(stream stdcopy.Stream, p []byte) {
	if stream == stdcopy.Stdout && !c.hello.Stdout || stream == stdcopy.Stderr && !c.hello.Stderr {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) >= queueSize && !c.gone && !c.free {
		c.changed.Wait()
	}
	if c.gone {
		return
	}
	if c.framed {
		c.queue = stdcopy.AppendHeader(c.queue, stream, len(p))
	}
	c.queue = append(c.queue, p...)
	c.changed.Broadcast()
}

// write delivers the queue until the client is gone or all is delivered.
func (c *client) write() error {
	var spare []byte
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.gone && !c.ending {
			spare, c.queue = nil, nil // an idle client holds no buffer
			c.changed.Wait()
		}
		batch, gone := c.queue, c.gone
		c.queue = spare[:0]
		c.changed.Broadcast()
		if gone || len(batch) == 0 {
			c.gone = true
			c.mu.Unlock()
			return nil
		}
		if c.free {
			_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
		}
		c.mu.Unlock()
		if _, err := c.conn.Write(batch); err != nil {
			c.abandon()
			return err
		}
		if spare = batch; cap(spare) > 2*queueSize {
			spare = nil
		}
	}
}

// unblock lets enqueue not wait any more and gives a client that does not read a limit.
func (c *client) unblock() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = true
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	c.changed.Broadcast()
}

// end closes the connection when the queue is empty.
func (c *client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
	c.changed.Broadcast()
}

// abandon closes the connection now.
func (c *client) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	c.changed.Broadcast()
	_ = c.conn.Close()
}

// detacher finds a sequence of keys in the bytes that a user types. Bytes that may be
// its beginning are held back until that is decided.
type detacher struct {
	keys []byte
	held int // how many of keys were typed last
}

// scan returns what to pass on of p and whether the sequence is complete. The result may
// share memory with p.
func (d *detacher) scan(p []byte) (pass []byte, detach bool) {
	if len(d.keys) == 0 {
		return p, false
	}
	if d.held == 0 && bytes.IndexByte(p, d.keys[0]) < 0 {
		return p, false
	}
	pass = make([]byte, 0, len(p)+d.held)
	for _, b := range p {
		for d.held > 0 && b != d.keys[d.held] {
			// The longest shorter beginning that still fits; the rest was not a key.
			n := d.held - 1
			for n > 0 && !bytes.Equal(d.keys[:n], d.keys[d.held-n:d.held]) {
				n--
			}
			pass = append(pass, d.keys[:d.held-n]...)
			d.held = n
		}
		if b != d.keys[d.held] {
			pass = append(pass, b)
			continue
		}
		if d.held++; d.held == len(d.keys) {
			d.held = 0
			return pass, true
		}
	}
	return pass, false
}
