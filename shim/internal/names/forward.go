package names

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Times of a forwarded query. Clients wait 5 s (resolv.conf(5), "timeout").
const (
	patience = 4 * time.Second
	resend   = time.Second // UDP loses packets
	// grace is how long a "there is no such name" waits for the servers listed before the
	// one that said it: they may know names that the world does not.
	grace = 250 * time.Millisecond
)

// forwarder asks other servers.
type forwarder struct{ cache *cache }

func newForwarder() *forwarder { return &forwarder{cache: newCache()} }

// outcome is what one upstream said; nil reply: nothing.
type outcome struct {
	server int
	reply  []byte
	rcode  dnsmessage.RCode
	found  bool // has answers
}

// good reports whether the upstream knows, be it that there is nothing.
func (o outcome) good() bool {
	return o.reply != nil && (o.rcode == dnsmessage.RCodeSuccess || o.rcode == dnsmessage.RCodeNameError)
}

// ask returns the answer to q: from the cache, or of the upstreams, which are asked all at
// once.
func (f *forwarder) ask(ctx context.Context, q *query, upstreams []netip.AddrPort) []byte {
	if len(upstreams) == 0 {
		return q.failure(rcodeServFail)
	}
	key, cacheable := q.key()
	if cacheable {
		if reply := f.cache.get(key, q, time.Now()); reply != nil {
			return q.fit(reply)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	best := q.race(ctx, upstreams)
	if best.reply == nil {
		return q.failure(rcodeServFail)
	}
	binary.BigEndian.PutUint16(best.reply, q.header.ID)
	if cacheable && best.good() {
		f.cache.put(key, q, best.reply, time.Now())
	}
	return q.fit(best.reply)
}

// race asks all upstreams and returns the first that has answers; one that says there are
// none counts when those before it have said their part, or after a moment.
func (q *query) race(ctx context.Context, upstreams []netip.AddrPort) outcome {
	var wg sync.WaitGroup
	defer wg.Wait() // short: what still waits for an answer is cancelled before
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	said := make(chan outcome, len(upstreams)) // each says one thing
	for i, server := range upstreams {
		wg.Go(func() {
			o := q.exchange(ctx, server)
			o.server = i
			said <- o
		})
	}
	outcomes := make([]outcome, len(upstreams))
	silent := make([]bool, len(upstreams)) // has not said anything yet
	for i := range silent {
		silent[i] = true
	}
	var late <-chan time.Time
	for range upstreams {
		select {
		case o := <-said:
			outcomes[o.server], silent[o.server] = o, false
			if o.found {
				return o
			}
		case <-late:
			return first(outcomes)
		}
		for i, o := range outcomes {
			if silent[i] {
				break
			}
			if o.good() {
				return o
			}
		}
		if late == nil && first(outcomes).good() {
			late = time.After(grace)
		}
	}
	return first(outcomes)
}

// first returns the first good outcome, or else the first reply at all.
func first(outcomes []outcome) outcome {
	var some outcome
	for _, o := range outcomes {
		if o.good() {
			return o
		}
		if some.reply == nil {
			some = o
		}
	}
	return some
}

// exchange asks one server, by UDP and, where that is too small, by TCP.
func (q *query) exchange(ctx context.Context, server netip.AddrPort) outcome {
	msg := append([]byte(nil), q.raw...)
	binary.BigEndian.PutUint16(msg, newID())
	o := q.exchangeUDP(ctx, server, msg)
	if o.reply != nil && o.reply[2]&flagTruncated != 0 {
		if whole := q.exchangeTCP(ctx, server, msg); whole.reply != nil {
			return whole
		}
	}
	return o
}

const flagTruncated = 0x02 // TC, in the third byte of a header

func (q *query) exchangeUDP(ctx context.Context, server netip.AddrPort, msg []byte) outcome {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", server.String())
	if err != nil {
		return outcome{}
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxQuery)
	for ctx.Err() == nil {
		if _, err := c.Write(msg); err != nil && !isRefused(err) {
			return outcome{}
		}
		until := time.Now().Add(resend)
		for ctx.Err() == nil {
			if c.SetReadDeadline(until) != nil {
				return outcome{}
			}
			if ctx.Err() != nil { // came between: do not undo its deadline
				return outcome{}
			}
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // ask again
			}
			if err != nil {
				return outcome{} // nobody listens there
			}
			if o := q.check(buf[:n], msg); o.reply != nil {
				return o
			} // else somebody else's packet, or a late one
		}
	}
	return outcome{}
}

func isRefused(err error) bool { return strings.Contains(err.Error(), "refused") }

func (q *query) exchangeTCP(ctx context.Context, server netip.AddrPort, msg []byte) outcome {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", server.String())
	if err != nil {
		return outcome{}
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if writeTCP(c, msg) != nil {
		return outcome{}
	}
	reply, err := readTCP(c, maxMessage)
	if err != nil {
		return outcome{}
	}
	return q.check(reply, msg)
}

// check takes a reply only if it answers msg.
func (q *query) check(reply, msg []byte) outcome {
	var p dnsmessage.Parser
	h, err := p.Start(reply)
	if err != nil || !h.Response || h.ID != binary.BigEndian.Uint16(msg) {
		return outcome{}
	}
	question, err := p.Question()
	switch {
	case errors.Is(err, dnsmessage.ErrSectionDone) && h.RCode != dnsmessage.RCodeSuccess && h.RCode != dnsmessage.RCodeNameError:
		// Some servers do not repeat a question that they refuse.
	case err != nil, question.Type != q.question.Type, question.Class != q.question.Class,
		!strings.EqualFold(question.Name.String(), q.question.Name.String()):
		return outcome{}
	}
	return outcome{reply: reply, rcode: h.RCode, found: h.RCode == dnsmessage.RCodeSuccess && binary.BigEndian.Uint16(reply[6:]) > 0}
}

// fit cuts a reply that the client cannot take.
func (q *query) fit(reply []byte) []byte {
	if len(reply) <= q.limit {
		return reply
	}
	msg, err := q.build(dnsmessage.RCode(reply[3]&0x0f), nil, 0, true)
	if err != nil {
		return nil
	}
	return msg
}

// key says which queries have the same answer; ok is false for those that should not be
// answered from a cache.
func (q *query) key() (key string, ok bool) {
	flags := byte(0)
	for i, b := range []bool{q.edns, q.do, q.header.CheckingDisabled, q.header.RecursionDesired, q.header.AuthenticData} {
		if b {
			flags |= 1 << i
		}
	}
	t, c := q.question.Type, q.question.Class
	return strings.ToLower(q.question.Name.String()) + string([]byte{0, byte(t >> 8), byte(t), byte(c >> 8), byte(c), flags}), !q.options && skipName(q.raw, headerLen) == headerLen+q.nameLen()
}

// nameLen is the length of the question's name on the wire without compression, in bytes.
func (q *query) nameLen() int {
	if q.question.Name.Length <= 1 { // the root
		return 1
	}
	return int(q.question.Name.Length) + 1
}
