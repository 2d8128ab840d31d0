package ports

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"

	"strata/pkg/linux/portlock"
)

const (
	// idle is how long a flow without packets is kept: as connection tracking does
	// (nf_conntrack_udp_timeout_stream is 120 s, and 30 s for a packet without an answer).
	idle = 90 * time.Second
	// maxFlows bounds the flows of one port, each of which holds a descriptor: the one that
	// was silent longest goes.
	maxFlows = 1024
)

// relayPackets listens on UDP port at and passes packets on to another address. It lives as
// long as the lease's sockets.
func (l *Ledger) relayPackets(lease *Lease, at, to netip.AddrPort) error {
	socket, err := portlock.ListenPackets(at)
	if err != nil {
		return err
	}
	r := &packetRelay{socket: socket, to: net.UDPAddrFromAddrPort(to), flows: map[flowKey]*list.Element{}}
	lease.sockets = append(lease.sockets, r)
	l.relays.Go(r.run)
	return nil
}

// packetRelay passes the packets of a UDP port on, with a socket of its own for each client,
// so that answers find their way back.
type packetRelay struct {
	socket *portlock.Packets
	to     *net.UDPAddr
	answer sync.WaitGroup

	mu    sync.Mutex
	flows map[flowKey]*list.Element // nil once closed
	order list.List                 // of *flow: the one that was silent longest is at the back
}

// flowKey tells flows apart: a client, and the address of the host that it speaks to.
type flowKey struct {
	client netip.AddrPort
	at     netip.Addr
}

type flow struct {
	flowKey
	conn *net.UDPConn
}

func (r *packetRelay) run() {
	defer r.answer.Wait()
	for {
		closed := false
		err := r.socket.Next(func(p portlock.Packet) { closed = !r.pass(p) })
		if r.isClosed() || closed {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // an error that a client caused, and can cause again
		}
	}
}

// pass sends a client's packet to the container. It returns false once the relay is closed.
// A packet that cannot be passed on is lost, as packets may be.
func (r *packetRelay) pass(p portlock.Packet) bool {
	key := flowKey{p.From, p.At}
	r.mu.Lock()
	if r.flows == nil {
		r.mu.Unlock()
		return false
	}
	e := r.flows[key]
	if e == nil {
		conn, err := net.DialUDP("udp", nil, r.to)
		if err != nil {
			r.mu.Unlock()
			return true
		}
		e = r.order.PushFront(&flow{key, conn})
		r.flows[key] = e
		r.answer.Go(func() { r.back(e) })
		if len(r.flows) > maxFlows {
			r.endLocked(r.order.Back())
		}
	}
	r.order.MoveToFront(e)
	f := e.Value.(*flow)
	r.mu.Unlock()
	_ = f.conn.SetReadDeadline(time.Now().Add(idle)) // it may have been ended meanwhile
	_, _ = f.conn.Write(p.Data)
	return true
}

// back sends the container's answers to a flow's client until the flow has been idle, or the
// container refuses it.
func (r *packetRelay) back(e *list.Element) {
	f := e.Value.(*flow)
	for {
		err := portlock.ReadPacket(f.conn, func(data []byte) {
			_ = r.socket.Answer(data, f.client, f.at) // lost if the client is gone
		})
		if err != nil {
			r.mu.Lock()
			r.endLocked(e)
			r.mu.Unlock()
			return
		}
		_ = f.conn.SetReadDeadline(time.Now().Add(idle))
	}
}

// endLocked forgets a flow and closes its socket. Preconditions: mu is held.
func (r *packetRelay) endLocked(e *list.Element) {
	f := e.Value.(*flow)
	if r.flows[f.flowKey] == e {
		delete(r.flows, f.flowKey)
		r.order.Remove(e)
	}
	_ = f.conn.Close() // nothing is written that could be lost
}

func (r *packetRelay) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flows == nil
}

// Close ends all flows and lets go of the port.
func (r *packetRelay) Close() error {
	r.mu.Lock()
	for e := r.order.Front(); e != nil; e = r.order.Front() {
		r.endLocked(e)
	}
	r.flows = nil
	r.mu.Unlock()
	return r.socket.Close()
}
