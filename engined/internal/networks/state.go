package networks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"strata/engined/internal/networks/bridge"
	"strata/engined/internal/networks/etcfiles"
	"strata/pkg/atomicfile"
	"strata/pkg/ctxlog"
	"strata/pkg/linux/netns"
)

// sandbox is a container's network in this process.
type sandbox struct {
	// Guarded by the container's lock:
	request Request
	publishedPorts
	dnsPort uint16 // where the shim listens for DNS; 0 without Request.Resolver

	// Guarded by Manager.mu, and changed under the container's lock:
	endpoints []Endpoint
	ready     bool

	filesMu sync.Mutex      // held while the hosts file is edited
	peers   []etcfiles.Line // what we wrote into it about others
}

// record is a sandbox on tmpfs: intent before Join does anything, state after it.
type record struct {
	Request   Request
	Endpoints []Endpoint
	Ports     []PortMapping
	DNSPort   uint16
	Ready     bool
}

// peersPath is the file that remembers which lines of a hosts file are ours to take out.
func (m *Manager) peersPath(containerID string) string {
	return filepath.Join(m.cfg.sandboxDir(), containerID+".peers")
}

func (m *Manager) recordPath(containerID string) string {
	return filepath.Join(m.cfg.sandboxDir(), containerID+".json")
}

// save writes the record of a sandbox. Preconditions: the container's lock is held.
func (m *Manager) save(sb *sandbox) error {
	data, err := json.Marshal(record{Request: sb.request, Endpoints: sb.endpoints, Ports: sb.mapped, DNSPort: sb.dnsPort, Ready: sb.ready})
	if err != nil {
		return fmt.Errorf("encode sandbox: %w", err)
	}
	return atomicfile.Write(m.recordPath(sb.request.ContainerID), data, 0o600, atomicfile.Volatile)
}

// show makes a sandbox visible to readers. Preconditions: the container's lock is held.
func (m *Manager) show(sb *sandbox) Sandbox {
	box := Sandbox{ContainerID: sb.request.ContainerID, Endpoints: sb.endpoints, Ports: sb.mapped}
	if sb.request.Resolver {
		box.NamesPath = m.cfg.namesPath(sb.request.ContainerID)
	}
	if sb.request.Mode != NetworkHost {
		box.NetnsPath = m.cfg.netnsPath(sb.request.ContainerID)
	}
	m.view.Store(box.ContainerID, box)
	return box
}

// relearn reads the records of an earlier process: those that are ready are taken over with
// their netns, addresses and ports, the others are undone.
func (m *Manager) relearn(ctx context.Context) error {
	files, err := os.ReadDir(m.cfg.sandboxDir())
	if err != nil {
		return fmt.Errorf("read sandboxes: %w", err)
	}
	for _, f := range files {
		containerID, ok := strings.CutSuffix(f.Name(), ".json")
		if strings.HasSuffix(f.Name(), ".peers") && !strings.HasPrefix(f.Name(), ".") {
			continue // belongs to a record
		}
		if !ok || strings.HasPrefix(f.Name(), ".") {
			_ = os.Remove(filepath.Join(m.cfg.sandboxDir(), f.Name())) // half-written
			continue
		}
		if err := m.relearnOne(ctx, containerID); err != nil {
			ctxlog.From(ctx).Error("network of a container could not be taken over", ctxlog.ContainerID, containerID, ctxlog.Error, err)
		}
	}
	return nil
}

func (m *Manager) relearnOne(ctx context.Context, containerID string) error {
	data, err := os.ReadFile(m.recordPath(containerID))
	if err != nil {
		return err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return errors.Join(err, m.discard(containerID, nil))
	}
	alive := r.Request.Mode == NetworkHost || netns.Is(m.cfg.netnsPath(containerID))
	if !r.Ready || !alive {
		ctxlog.From(ctx).Info("half-made network of a container was undone", ctxlog.ContainerID, containerID)
		return m.discard(containerID, r.Endpoints)
	}
	sb := &sandbox{request: r.Request, endpoints: r.Endpoints, dnsPort: r.DNSPort, ready: true, peers: m.loadPeers(containerID)}
	for _, e := range r.Endpoints {
		n, err := m.find(e.NetworkID)
		if err != nil {
			continue // was removed by force: the interface still works until Leave
		}
		for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
			if !p.IsValid() {
				continue
			}
			if err := n.take(p); err != nil {
				ctxlog.From(ctx).Warn("two containers have the same address", ctxlog.ContainerID, containerID, ctxlog.Error, err)
			}
		}
	}
	for _, p := range m.publishedPlan(sb, r.Ports) {
		sb.rules = append(sb.rules, p.opened...)
		if !p.translated() {
			continue
		}
		lease := m.ledger.Restore(p.wish)
		if lease.Warning != "" {
			ctxlog.From(ctx).Warn("published port works, but another process has it too", ctxlog.ContainerID, containerID, ctxlog.Error, lease.Warning)
		}
		sb.leases = append(sb.leases, lease)
		sb.rules = append(sb.rules, p.rules(lease)...)
	}
	sb.mapped = r.Ports
	m.sandboxes[containerID] = sb
	m.show(sb)
	m.outdate(sb.endpoints) // the earlier process may have died before it told everybody
	return nil
}

// savePeers remembers lines that are, or are about to be, in a hosts file. Preconditions:
// filesMu is held.
func (m *Manager) savePeers(sb *sandbox, lines []etcfiles.Line) error {
	data, err := json.Marshal(lines)
	if err != nil {
		return fmt.Errorf("encode names of peers: %w", err)
	}
	return atomicfile.Write(m.peersPath(sb.request.ContainerID), data, 0o600, atomicfile.Volatile)
}

// loadPeers reads what savePeers wrote.
func (m *Manager) loadPeers(containerID string) []etcfiles.Line {
	var lines []etcfiles.Line
	data, err := os.ReadFile(m.peersPath(containerID))
	if err != nil || json.Unmarshal(data, &lines) != nil {
		return nil // no peers, or none that we could know
	}
	return lines
}

// forgetRecord removes what is on tmpfs about a sandbox, the record last.
func (m *Manager) forgetRecord(containerID string) error {
	for _, path := range []string{m.peersPath(containerID), m.cfg.namesPath(containerID), m.recordPath(containerID)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("forget sandbox: %w", err)
		}
	}
	return nil
}

func (n *network) take(p netip.Prefix) error {
	for _, pool := range n.pools {
		if pool.Subnet().Contains(p.Addr()) {
			return pool.Take(p.Addr())
		}
	}
	return nil
}

// discard deletes what a sandbox may have in the kernel and on disk, by its record alone.
func (m *Manager) discard(containerID string, endpoints []Endpoint) error {
	err := m.unplugUplinks(containerID, endpoints)
	for _, e := range endpoints {
		if e.HostVeth != "" {
			err = errors.Join(err, m.host.Unplug(e.HostVeth))
		}
	}
	err = errors.Join(err, netns.Delete(m.cfg.netnsPath(containerID)))
	if err != nil {
		return err // the record stays, for another try
	}
	return m.forgetRecord(containerID)
}

// guardForward reports whether forwarding between interfaces that are not ours is to be
// dropped: if it was us who switched forwarding on. A file on tmpfs remembers that across
// restarts; after a reboot the question is asked anew.
func (m *Manager) guardForward() bool {
	_, err := os.Stat(m.forwardMark())
	return err == nil && !m.cfg.IPForwardNoDrop
}

func (m *Manager) forwardMark() string {
	return filepath.Join(m.cfg.ExecRoot, "forwarding-switched-on")
}

// forward switches forwarding on for a network that needs it.
func (m *Manager) forward(ctx context.Context, n *network) error {
	if n.Internal || !m.cfg.IPForward {
		return nil
	}
	for _, ipv6 := range []bool{false, true} {
		if ipv6 && !n.EnableIPv6 || !ipv6 && !n.EnableIPv4 || bridge.Forwarding(ipv6) {
			continue
		}
		// The mark comes first: a crash in between closes more, not less.
		if err := os.WriteFile(m.forwardMark(), nil, 0o600); err != nil {
			return fmt.Errorf("remember forwarding: %w", err)
		}
		if _, err := bridge.Forward(ctx, ipv6); err != nil {
			return err
		}
		if m.firewall != nil && m.guardForward() {
			if err := m.firewall.GuardForward(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
