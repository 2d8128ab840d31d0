package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"

	"strata/pkg/linux/nft"
)

const (
	// chunk is how many elements one message may hold: an attribute is at most 64 KiB.
	chunk = 500
	// sendBuffer holds the largest transaction, a Restore of 30,000 ports, in bytes.
	sendBuffer = 16 << 20
)

// Config says how the table is to look.
type Config struct {
	Table string // its name; the family is inet
	// GuardForward drops what is forwarded between interfaces that are not ours.
	GuardForward bool
	// RespectHost translates only what the host itself sends: packets from elsewhere stay
	// the host's, and its own INPUT rules decide about them.
	RespectHost bool
	// SkipLoopback6 leaves packets of the host to ::1 alone.
	SkipLoopback6 bool
}

// Firewall is our table: the wanted state, and the kernel's. It is safe for concurrent
// use; changes become true in the order of the calls, each in one transaction.
type Firewall struct {
	cfg Config

	mu     sync.Mutex
	wanted map[element]int // how many changes want it
	conn   *nftables.Conn  // nil after an error: opened again when needed
	portID uint32          // the netlink address that our changes come from
}

// New returns a firewall that has not touched the kernel: call Restore.
func New(cfg Config) *Firewall {
	return &Firewall{cfg: cfg, wanted: map[element]int{}}
}

// Want adds to the wanted state, without the kernel: Restore follows.
func (f *Firewall) Want(c Change) error {
	elements, err := c.elements()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range elements {
		f.wanted[e]++
	}
	return nil
}

// Add makes a change true. On an error the wanted state is as before.
func (f *Firewall) Add(c Change) error {
	elements, err := c.elements()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var fresh []element
	for _, e := range elements {
		if f.wanted[e]++; f.wanted[e] == 1 {
			fresh = append(fresh, e)
		}
	}
	if err := f.applyLocked(fresh, (*nftables.Conn).SetAddElements); err != nil {
		for _, e := range elements {
			f.forgetLocked(e)
		}
		return fmt.Errorf("add %d firewall elements: %w", len(fresh), err)
	}
	return nil
}

// Remove takes a change back. An error leaves the kernel as it was, but not the wanted
// state: the next Restore makes it true.
func (f *Firewall) Remove(c Change) error {
	elements, err := c.elements()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var gone []element
	for _, e := range elements {
		if f.forgetLocked(e) {
			gone = append(gone, e)
		}
	}
	if err := f.applyLocked(gone, (*nftables.Conn).SetDeleteElements); err != nil {
		return fmt.Errorf("remove %d firewall elements: %w", len(gone), err)
	}
	return nil
}

// forgetLocked reports whether nobody wants e any more, who did before. Preconditions: mu
// is held.
func (f *Firewall) forgetLocked(e element) bool {
	n, ok := f.wanted[e]
	if !ok {
		return false
	}
	if n > 1 {
		f.wanted[e] = n - 1
		return false
	}
	delete(f.wanted, e)
	return true
}

// applyLocked sends one transaction that adds or deletes elements. Preconditions: mu is
// held.
func (f *Firewall) applyLocked(elements []element, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	if len(elements) == 0 {
		return nil
	}
	conn, err := f.connLocked()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: f.cfg.Table}
	for _, s := range sets {
		kernel := nftables.Set{Table: table, Name: s.name, IsMap: s.data != nil, Interval: s.interval}
		if err := inChunks(elements, s.name, func(es []nftables.SetElement) error { return do(conn, &kernel, es) }); err != nil {
			return err
		}
	}
	return f.flushLocked(conn)
}

// inChunks calls do with the elements of one set, as many as a message holds.
func inChunks(elements []element, set string, do func([]nftables.SetElement) error) error {
	var batch []nftables.SetElement
	for _, e := range elements {
		if e.set != set {
			continue
		}
		batch = append(batch, nftables.SetElement{Key: []byte(e.key), KeyEnd: []byte(e.end), Val: []byte(e.val)})
		if len(batch) == chunk {
			if err := do(batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return do(batch)
}

// Restore replaces whatever is in the kernel under our table's name by the wanted state,
// in one transaction: no packet sees anything in between, and connections that are
// translated already go on.
func (f *Firewall) Restore(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.connLocked()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: f.cfg.Table}
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	conn.AddTable(table)
	elements := make([]element, 0, len(f.wanted))
	for e := range f.wanted {
		elements = append(elements, e)
	}
	ids := map[string]uint32{}
	for _, s := range sets {
		kernel, err := s.kernel(table)
		if err != nil {
			return err
		}
		if err := conn.AddSet(kernel, nil); err != nil {
			return fmt.Errorf("make set %q: %w", s.name, err)
		}
		ids[s.name] = kernel.ID
		if err := inChunks(elements, s.name, func(es []nftables.SetElement) error { return conn.SetAddElements(kernel, es) }); err != nil {
			return fmt.Errorf("fill set %q: %w", s.name, err)
		}
	}
	for _, c := range skeleton(f.cfg) {
		kernel := conn.AddChain(&nftables.Chain{Table: table, Name: c.name, Type: c.kind, Hooknum: c.hook, Priority: c.prio})
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: kernel, Exprs: r.exprs(ids)})
		}
	}
	if err := f.flushLocked(conn); err != nil {
		return fmt.Errorf("restore nftables table %q: %w", f.cfg.Table, err)
	}
	return nil
}

// GuardForward makes the table drop what is forwarded between interfaces that are not ours.
func (f *Firewall) GuardForward(ctx context.Context) error {
	f.mu.Lock()
	same := f.cfg.GuardForward
	f.cfg.GuardForward = true
	f.mu.Unlock()
	if same {
		return nil
	}
	return f.Restore(ctx)
}

// Destroy deletes the table from the kernel and forgets the wanted state.
func (f *Firewall) Destroy() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = map[element]int{}
	conn, err := f.connLocked()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: f.cfg.Table}
	conn.AddTable(table)
	conn.DelTable(table)
	return f.flushLocked(conn)
}

// Close lets go of the socket; the table stays.
func (f *Firewall) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == nil {
		return nil
	}
	err := f.conn.CloseLasting()
	f.conn = nil
	return err
}

// connLocked returns the lasting connection. Preconditions: mu is held.
func (f *Firewall) connLocked() (*nftables.Conn, error) {
	if f.conn != nil {
		return f.conn, nil
	}
	tune := func(c *netlink.Conn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		if f.portID, err = nft.PortID(raw); err != nil {
			return err
		}
		return c.SetWriteBuffer(sendBuffer)
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(tune))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	f.conn = conn
	return conn, nil
}

// flushLocked commits. After an error the connection may hold answers that nobody reads:
// the next call opens another. Preconditions: mu is held.
func (f *Firewall) flushLocked(conn *nftables.Conn) error {
	err := conn.Flush()
	if err == nil {
		return nil
	}
	f.conn = nil
	return errors.Join(err, conn.CloseLasting())
}

func (s set) kernel(t *nftables.Table) (*nftables.Set, error) {
	out := &nftables.Set{Table: t, Name: s.name, IsMap: s.data != nil, Interval: s.interval, Concatenation: len(s.key) > 1}
	if len(s.key) == 1 && s.key[0] == nftables.TypeIFName {
		out.KeyByteOrder = binaryutil.NativeEndian // a hint to nft(8), which prints "" without it
	}
	for to, from := range map[*nftables.SetDatatype][]nftables.SetDatatype{&out.KeyType: s.key, &out.DataType: s.data} {
		switch len(from) {
		case 0:
		case 1:
			*to = from[0]
		default:
			c, err := nftables.ConcatSetType(from...)
			if err != nil {
				return nil, fmt.Errorf("type of set %q: %w", s.name, err)
			}
			*to = c
		}
	}
	return out, nil
}

// Text renders the wanted state in the words of nft(8), in a fixed order.
func (f *Firewall) Text() string {
	f.mu.Lock()
	bySet := map[string][]string{}
	for e := range f.wanted {
		bySet[e.set] = append(bySet[e.set], e.text)
	}
	f.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", f.cfg.Table)
	for _, s := range sets {
		kind := "set"
		if s.data != nil {
			kind = "map"
		}
		fmt.Fprintf(&b, "\t%s %s {\n\t\t%s\n", kind, s.name, s.text)
		if s.interval {
			b.WriteString("\t\tflags interval\n")
		}
		if es := bySet[s.name]; len(es) > 0 {
			slices.Sort(es)
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(es, ",\n\t\t\t     "))
		}
		b.WriteString("\t}\n\n")
	}
	for i, c := range skeleton(f.cfg) {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.text != "" {
			fmt.Fprintf(&b, "\t\t%s\n", c.text)
		}
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text())
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
