package networks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/engined/internal/events"
	"strata/engined/internal/networks/bridge"
	"strata/engined/internal/networks/firewall"
	"strata/engined/internal/networks/ports"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
	"strata/pkg/metadb"
)

// Manager is the engine's networking. Its methods are safe for concurrent use.
//
// Lock order: a container's lock (locks), then mu. mu is held for look-ups and
// allocations, never across the kernel's work.
type Manager struct {
	cfg      Config
	instance string // this engine, among others of the host
	records  metadb.Bucket[Network]
	host     *bridge.Host
	firewall *firewall.Firewall // nil if the firewall is not ours to manage
	ledger   *ports.Ledger
	locks    keyedMutex
	view     sync.Map      // containerID → Sandbox, for readers without a lock
	names    chan struct{} // wakes keepNames
	garbage  chan string   // interfaces of containers that left, for sweep

	mu        sync.Mutex
	networks  map[string]*network // by id
	sandboxes map[string]*sandbox // by container id
}

// network is a definition and what it is in this process.
type network struct {
	Network
	options options
	pools   pools

	index    atomic.Int64 // of the bridge
	bridging sync.Mutex   // held while the bridge is made
	naming   sync.Mutex   // held while the file of names is written
	// Guarded by Manager.mu:
	stale    bool // the hosts files of members do not name all members
	outdated bool // the file of names does not
	retired  bool // being removed: nobody may join
}

// New opens the definitions in db, learns the sandboxes below cfg.ExecRoot again, makes
// bridges and firewall as they should be, and undoes what a crash left half done. It works
// in the netns of the calling thread.
func New(ctx context.Context, db *bolt.DB, cfg Config) (*Manager, error) {
	records, err := metadb.NewBucket[Network](db, "networks")
	if err != nil {
		return nil, err
	}
	instance, err := instanceOf(db)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.netnsDir(), cfg.sandboxDir(), cfg.namesDir("containers"), cfg.namesDir("networks")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("networks: %w", err)
		}
	}
	host, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, instance: instance, records: records, host: host, ledger: ports.New(ports.Loopback6(bridge.Filtered(true))), names: make(chan struct{}, 1), // buffered: one wake-up covers all changes before it
		garbage:  make(chan string, 1024), // buffered: what does not fit is left to the kernel
		networks: map[string]*network{}, sandboxes: map[string]*sandbox{},
	}
	if err := m.open(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// open brings records, run-time state and kernel together.
func (m *Manager) open(ctx context.Context) error {
	if err := m.host.Claim(m.instance); err != nil {
		return err
	}
	if err := m.load(); err != nil {
		return err
	}
	if err := m.predefine(ctx); err != nil {
		return err
	}
	if err := m.relearn(ctx); err != nil {
		return err
	}
	m.openNames(ctx)
	m.sweepBridges(ctx)
	for _, n := range m.sorted() {
		var err error
		switch {
		case n.ConfigOnly:
		case n.Driver == DriverBridge:
			err = m.bridge(ctx, n, nil)
		case n.uplinked():
			err = m.parent(n, nil)
		}
		if err != nil {
			ctxlog.From(ctx).Error("network is out of order", ctxlog.Network, n.Name, ctxlog.Error, err)
		}
	}
	m.mendLost(ctx)
	return m.openFirewall(ctx)
}

// openFirewall makes the table say what networks and sandboxes need.
func (m *Manager) openFirewall(ctx context.Context) error {
	if !m.cfg.IPTables {
		return nil
	}
	m.firewall = firewall.New(firewall.Config{Table: m.cfg.FirewallTable, GuardForward: m.guardForward(), RespectHost: m.cfg.RespectHost, SkipLoopback6: bridge.Filtered(true)})
	var want firewall.Change
	for _, n := range m.sorted() {
		if n.Driver == DriverBridge && !n.ConfigOnly {
			want.Networks = append(want.Networks, n.rules())
		}
	}
	for _, sb := range m.all() {
		want.Ports = append(want.Ports, sb.rules...)
	}
	if err := m.firewall.Want(want); err != nil {
		return err
	}
	if err := m.firewall.Restore(ctx); err != nil {
		return fmt.Errorf("%w; without nftables say \"iptables\": false in the engine's configuration", err)
	}
	for _, o := range m.Obstacles() {
		ctxlog.From(ctx).Warn("another program's firewall rules stop containers' packets; our table cannot overrule them", "rule", o.Rule, "remedy", o.Remedy)
	}
	return nil
}

// Close lets go of sockets and ports. Containers keep what they have.
func (m *Manager) Close() error {
	m.ledger.Close()
	var err error
	if m.firewall != nil {
		err = m.firewall.Close()
	}
	return errors.Join(err, m.host.Close())
}

// Run does the background work until ctx is done: it puts our firewall table back, keeps
// the names of peers true, deletes what was left behind.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.keepNames(ctx) })
	wg.Go(func() { m.sweep(ctx) })
	if m.firewall == nil {
		<-ctx.Done()
		return nil
	}
	return m.firewall.Watch(ctx)
}

// sweep deletes the interfaces of containers that left, until ctx is done. The kernel would
// do it with the netns, but not before every socket inside is gone, and until then the
// bridge may send packets for a reused address there.
func (m *Manager) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case veth := <-m.garbage:
			if err := m.host.Unplug(veth); veth != "" && err != nil {
				ctxlog.From(ctx).Warn("interface of a container that left was not deleted", ctxlog.Name, veth, ctxlog.Error, err)
			}
		}
	}
}

// load reads the definitions.
func (m *Manager) load() error {
	all, err := m.records.All()
	if err != nil && !errdefs.IsDataLoss(err) {
		return fmt.Errorf("load networks: %w", err)
	}
	for _, def := range all {
		n, err := newNetwork(def)
		if err != nil {
			return fmt.Errorf("load network %q: %w", def.Name, err)
		}
		m.networks[def.ID] = n
	}
	return nil
}

func newNetwork(def Network) (*network, error) {
	opts, err := parseOptions(def)
	if err != nil {
		return nil, err
	}
	p, err := newPools(def.IPAM.Pools)
	if err != nil {
		return nil, err
	}
	return &network{Network: def, options: opts, pools: p}, nil
}

// sorted returns the networks, the oldest first.
func (m *Manager) sorted() []*network {
	m.mu.Lock()
	out := make([]*network, 0, len(m.networks))
	for _, n := range m.networks {
		out = append(out, n)
	}
	m.mu.Unlock()
	slices.SortFunc(out, func(a, b *network) int { return a.Created.Compare(b.Created) })
	return out
}

// all returns the sandboxes.
func (m *Manager) all() []*sandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*sandbox, 0, len(m.sandboxes))
	for _, s := range m.sandboxes {
		out = append(out, s)
	}
	return out
}

// Sandbox returns what a container got. It takes no lock.
func (m *Manager) Sandbox(containerID string) (Sandbox, bool) {
	v, ok := m.view.Load(containerID)
	if !ok {
		return Sandbox{}, false
	}
	return v.(Sandbox), true
}

// ContainerIDs returns the containers that have a sandbox. After a restart the engine
// calls Leave for those that do not run any more.
func (m *Manager) ContainerIDs() []string {
	var out []string
	m.view.Range(func(k, _ any) bool { out = append(out, k.(string)); return true })
	slices.Sort(out)
	return out
}

// publish tells the world about something that happened to a network.
func (m *Manager) publish(n Network, action string, attributes map[string]string) {
	if m.cfg.Events == nil {
		return
	}
	a := map[string]string{"name": n.Name, "type": n.Driver}
	maps.Copy(a, attributes)
	m.cfg.Events.Publish(events.Event{Type: "network", Action: action, ActorID: n.ID, Attributes: a})
}

func (c Config) netnsDir() string                    { return filepath.Join(c.ExecRoot, "netns") }
func (c Config) netnsPath(containerID string) string { return filepath.Join(c.netnsDir(), containerID) }

func (c Config) sandboxDir() string { return filepath.Join(c.ExecRoot, "sandboxes") }

// instanceOf returns the id of the engine whose database db is.
func instanceOf(db *bolt.DB) (string, error) {
	meta, err := metadb.NewBucket[string](db, "networks-engine")
	if err != nil {
		return "", err
	}
	id, err := meta.Get("instance")
	if errdefs.IsNotFound(err) {
		id = identifiers.New()[:12]
		err = meta.Put("instance", id)
	}
	return id, err
}

// keyedMutex is a mutex per key.
type keyedMutex struct {
	mu    sync.Mutex
	locks map[string]*countedMutex
}

type countedMutex struct {
	sync.Mutex
	users int
}

// Lock locks key and returns the function that unlocks it.
func (k *keyedMutex) Lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*countedMutex{}
	}
	l := k.locks[key]
	if l == nil {
		l = &countedMutex{}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
}
