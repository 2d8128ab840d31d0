package networks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/bridge"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/linux/netns"
)

// Join gives a container its network: netns, interfaces, addresses, ports, files. It is
// idempotent: with a sandbox there already, that one is returned, so that a task that is
// started again keeps its addresses and ports.
//
// Errors are of class ErrNotFound (network), ErrInvalidArgument (wishes that cannot be),
// ErrAlreadyExists (address), ErrResourceExhausted (pool, port range), or a
// *ports.ConflictError.
func (m *Manager) Join(ctx context.Context, r Request) (Sandbox, error) {
	if err := identifiers.Validate(r.ContainerID); err != nil {
		return Sandbox{}, err
	}
	if err := checkPorts(r.Ports); err != nil {
		return Sandbox{}, err
	}
	unlock := m.locks.Lock(r.ContainerID)
	defer unlock()
	if box, ok := m.Sandbox(r.ContainerID); ok {
		if box.NetnsPath == "" || netns.Is(box.NetnsPath) {
			return box, m.mendSandbox(ctx, box)
		}
		ctxlog.From(ctx).Warn("netns of a container had vanished and is made anew", ctxlog.ContainerID, r.ContainerID)
		if err := m.leave(ctx, r.ContainerID); err != nil {
			return Sandbox{}, err
		}
	}
	sb, err := m.join(ctx, r)
	if err != nil {
		return Sandbox{}, err
	}
	box := m.show(sb)
	for _, e := range box.Endpoints {
		m.announce(e, r.ContainerID, "connect")
	}
	return box, nil
}

// join does the work of Join. Preconditions: the container's lock is held.
func (m *Manager) join(ctx context.Context, r Request) (*sandbox, error) {
	var undo cleanup.Stack
	defer undo.Clean()
	sb := &sandbox{request: r}
	if err := m.allocate(sb); err != nil {
		return nil, err
	}
	sb.request.Resolver = r.Resolver && slices.ContainsFunc(sb.endpoints, named)
	undo.Add(func() { m.release(r.ContainerID, sb) })
	// The intent: whoever finds this record knows what to undo.
	if err := m.save(sb); err != nil {
		return nil, err
	}
	undo.Add(func() {
		if err := m.discard(r.ContainerID, sb.endpoints); err != nil {
			ctxlog.From(ctx).Warn("half-made network is left until the engine starts again", ctxlog.ContainerID, r.ContainerID, ctxlog.Error, err)
		}
	})
	if err := failpoint.Hit("networks/join/saved"); err != nil {
		return nil, err
	}
	// The kernel's work on one side, ports and files on the other.
	var kernel error
	var wg sync.WaitGroup
	wg.Go(func() { kernel = m.build(ctx, sb) })
	err := m.publishPorts(sb, r.Ports)
	if err == nil {
		undo.Add(func() { _ = m.withdrawPorts(sb) })
		err = m.writeFiles(sb)
	}
	wg.Wait()
	if err = errors.Join(err, kernel); err == nil {
		err = m.writeNames(sb)
	}
	if err != nil {
		return nil, err
	}
	if err := failpoint.Hit("networks/join/built"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	sb.ready = true
	m.mu.Unlock()
	if err := m.save(sb); err != nil {
		return nil, err
	}
	// Point of no return: the record says ready.
	failpoint.Pass("networks/join/ready")
	undo.Release()
	m.peersChanged(ctx, sb.endpoints)
	return sb, nil
}

// allocate chooses endpoints and addresses and lists the sandbox, so that no network that
// it is on can be removed.
func (m *Manager) allocate(sb *sandbox) error {
	requests := sb.request.Endpoints
	switch {
	case sb.request.Mode == NetworkHost || sb.request.Mode == NetworkNone:
		requests = []EndpointRequest{{Network: sb.request.Mode}}
	case len(requests) == 0:
		requests = []EndpointRequest{{Network: NetworkBridge}}
	}
	for _, r := range requests {
		e, err := m.newEndpoint(sb, r)
		if err != nil {
			m.release(sb.request.ContainerID, sb)
			return err
		}
		sb.endpoints = append(sb.endpoints, e)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range sb.endpoints {
		if n := m.networks[e.NetworkID]; n == nil || n.retired {
			defer m.releaseLocked(sb) // runs before the unlock
			return fmt.Errorf("network %s not found: %w", e.NetworkName, errdefs.ErrNotFound)
		}
	}
	m.sandboxes[sb.request.ContainerID] = sb
	return nil
}

// newEndpoint takes addresses for an endpoint beside those of sb.
func (m *Manager) newEndpoint(sb *sandbox, r EndpointRequest) (Endpoint, error) {
	n, err := m.find(r.Network)
	if err != nil {
		return Endpoint{}, err
	}
	if err := m.checkEndpoint(sb, n, r); err != nil {
		return Endpoint{}, err
	}
	id, veth := newEndpointID()
	e := Endpoint{ID: id, NetworkID: n.ID, NetworkName: n.Name, Aliases: r.Aliases, Links: r.Links, DriverOpts: r.DriverOpts, GwPriority: r.GwPriority}
	switch {
	case n.Driver == DriverBridge:
		e.HostVeth = veth
	case !n.uplinked():
		return e, nil
	}
	e.Interface = r.Interface
	if e.Interface == "" {
		e.Interface = freeInterface(sb.endpoints, n.options.prefix)
	}
	if n.EnableIPv4 {
		if e.IPv4, err = n.allocate(r.IPv4, false); err != nil {
			return Endpoint{}, err
		}
		e.Gateway4 = n.gateway(e.IPv4)
	}
	if n.EnableIPv6 {
		if e.IPv6, err = n.allocate(r.IPv6, true); err != nil {
			n.release(e.IPv4)
			return Endpoint{}, err
		}
		e.Gateway6 = n.gateway(e.IPv6)
	}
	e.OnLink = n.routesItself() && !n.Internal
	if n.Internal || e.OnLink {
		e.Gateway4, e.Gateway6 = netip.Addr{}, netip.Addr{} // there is no way out
	}
	if e.MAC, err = m.macFor(n, e, r); err != nil {
		n.release(e.IPv4)
		n.release(e.IPv6)
		return Endpoint{}, err
	}
	if n.Name != NetworkBridge {
		e.DNSNames = dnsNames(sb.request, r.Aliases)
	}
	return e, nil
}

// checkEndpoint refuses wishes that a network cannot grant, in dockerd's words.
func (m *Manager) checkEndpoint(sb *sandbox, n *network, r EndpointRequest) error {
	static := r.IPv4.IsValid() || r.IPv6.IsValid()
	switch {
	case n.ConfigOnly:
		return fmt.Errorf("cannot attach container to config-only network %q: %w", n.Name, errdefs.ErrPermissionDenied)
	case static && n.Predefined():
		return fmt.Errorf("user specified IP address is supported on user defined networks only: %w", errdefs.ErrInvalidArgument)
	case len(r.Aliases) > 0 && n.Predefined():
		return fmt.Errorf("network-scoped alias is supported only for containers in user defined networks: %w", errdefs.ErrInvalidArgument)
	case r.IPv6.IsValid() && !n.EnableIPv6:
		return fmt.Errorf("invalid address %s: network %s has no IPv6: %w", r.IPv6, n.Name, errdefs.ErrInvalidArgument)
	case r.MAC != nil && (len(r.MAC) != 6 || r.MAC[0]&1 != 0):
		return fmt.Errorf("invalid MAC address %s: want 6 bytes, not multicast: %w", r.MAC, errdefs.ErrInvalidArgument)
	case r.MAC != nil && n.Driver == DriverIPvlan:
		return fmt.Errorf("ipvlan interfaces do not support custom mac address assignment: %w", errdefs.ErrInvalidArgument)
	case r.Interface != "":
		if err := validInterface(r.Interface); err != nil {
			return err
		}
	}
	for _, e := range sb.endpoints {
		if e.NetworkID == n.ID {
			return fmt.Errorf("endpoint with name %s already exists in network %s: %w", sb.request.ContainerName, n.Name, errdefs.ErrPermissionDenied)
		}
		if r.Interface != "" && e.Interface == r.Interface {
			return fmt.Errorf("interface name %q is used twice: %w", r.Interface, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// freeInterface returns the first of prefix0, prefix1, … that no endpoint has.
func freeInterface(endpoints []Endpoint, prefix string) string {
	for i := 0; ; i++ {
		name := prefix + strconv.Itoa(i)
		if !slices.ContainsFunc(endpoints, func(e Endpoint) bool { return e.Interface == name }) {
			return name
		}
	}
}

// macFor returns the MAC of a new endpoint: the parent's where it is shared.
func (m *Manager) macFor(n *network, e Endpoint, r EndpointRequest) (net.HardwareAddr, error) {
	switch {
	case n.Driver == DriverIPvlan, n.options.uplink.mode == passthru:
		return m.host.MAC(n.options.uplink.parent)
	case r.MAC != nil:
		return r.MAC, nil
	}
	return macOf(e.IPv4.Addr()), nil
}

// macOf derives a MAC from an IPv4 address, as docker did for ten years: what reuses the
// address reuses the MAC, so that neighbours' caches stay right.
func macOf(a netip.Addr) net.HardwareAddr {
	if !a.Is4() {
		return bridge.RandomMAC()
	}
	return append(net.HardwareAddr{0x02, 0x42}, a.AsSlice()...)
}

// release gives the addresses of a sandbox back and takes it off the list.
func (m *Manager) release(containerID string, sb *sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.releaseLocked(sb)
	if m.sandboxes[containerID] == sb {
		delete(m.sandboxes, containerID)
	}
}

// Preconditions: mu is held.
func (m *Manager) releaseLocked(sb *sandbox) {
	for _, e := range sb.endpoints {
		if n := m.networks[e.NetworkID]; n != nil {
			n.release(e.IPv4)
			n.release(e.IPv6)
		}
	}
}

// build makes the netns and its interfaces.
func (m *Manager) build(ctx context.Context, sb *sandbox) error {
	if sb.request.Mode == NetworkHost {
		return nil
	}
	ipv6 := slices.ContainsFunc(sb.endpoints, func(e Endpoint) bool { return e.IPv6.IsValid() })
	path := m.cfg.netnsPath(sb.request.ContainerID)
	in, err := bridge.MakeNetns(path, ipv6)
	if errors.Is(err, os.ErrExist) { // of a Join that was not recorded: nobody's
		if err := netns.Delete(path); err != nil {
			return err
		}
		in, err = bridge.MakeNetns(path, ipv6)
	}
	if err != nil {
		return err
	}
	if sb.request.Resolver {
		sb.dnsPort = m.leadDNS(ctx, in)
	}
	for _, e := range sb.endpoints {
		if err = m.plug(ctx, in, e); err != nil {
			break
		}
	}
	if err == nil {
		err = m.route(in, sb.endpoints)
	}
	return errors.Join(err, in.Close())
}

// plug connects an endpoint's interface.
func (m *Manager) plug(ctx context.Context, in *bridge.Inside, e Endpoint) error {
	if e.Interface == "" {
		return nil
	}
	n, err := m.find(e.NetworkID)
	if err != nil {
		return err
	}
	if n.uplinked() {
		return m.plugUplink(ctx, in, n, e)
	}
	if err := m.plugInto(in, n, e); err != nil {
		// Somebody deleted the bridge, perhaps: make it again, once.
		ctxlog.From(ctx).Debug("interface could not be plugged in; looking after the bridge", ctxlog.Network, n.Name, ctxlog.Error, err)
		if err := m.bridge(ctx, n, nil); err != nil {
			return fmt.Errorf("connect to network %s: %w", n.Name, err)
		}
		if err := m.plugInto(in, n, e); err != nil {
			return fmt.Errorf("connect to network %s: %w", n.Name, err)
		}
	}
	return nil
}

func (m *Manager) plugInto(in *bridge.Inside, n *network, e Endpoint) error {
	return m.host.Plug(in, n.port(e))
}

// port is what the kernel is to know of an endpoint on a bridge network.
func (n *network) port(e Endpoint) bridge.Port {
	p := bridge.Port{
		Bridge: n.options.bridge, Index: int(n.index.Load()), HostName: e.HostVeth, Name: e.Interface, MTU: n.options.mtu, MAC: e.MAC, Isolated: !n.options.icc,
	}
	for _, a := range []netip.Prefix{e.IPv4, e.IPv6} {
		if a.IsValid() {
			p.Addresses = append(p.Addresses, a)
		}
	}
	return p
}

// route sets the default routes inside, by the priorities of endpoints.
func (m *Manager) route(in *bridge.Inside, endpoints []Endpoint) error {
	return in.SetDefaultRoutes(defaultRoutes(endpoints))
}

func defaultRoutes(endpoints []Endpoint) (v4, v6 bridge.Route) {
	for _, e := range byGatewayPriority(endpoints) {
		if v4.Interface == "" && (e.Gateway4.IsValid() || e.OnLink && e.IPv4.IsValid()) {
			v4 = bridge.Route{Interface: e.Interface, Gateway: e.Gateway4}
		}
		if v6.Interface == "" && (e.Gateway6.IsValid() || e.OnLink && e.IPv6.IsValid()) {
			v6 = bridge.Route{Interface: e.Interface, Gateway: e.Gateway6}
		}
	}
	return v4, v6
}

// Leave takes everything of a container away. It is no error if there is nothing. After an
// error it can be called again.
func (m *Manager) Leave(ctx context.Context, containerID string) error {
	unlock := m.locks.Lock(containerID)
	defer unlock()
	return m.leave(ctx, containerID)
}

// leave does the work of Leave. Preconditions: the container's lock is held.
func (m *Manager) leave(ctx context.Context, containerID string) error {
	m.mu.Lock()
	sb := m.sandboxes[containerID]
	m.mu.Unlock()
	if sb == nil {
		return nil
	}
	if err := m.withdrawPorts(sb); err != nil {
		// The table is put right by the next change of it; the container goes.
		ctxlog.From(ctx).Warn("published ports were not withdrawn", ctxlog.ContainerID, containerID, ctxlog.Error, err)
	}
	failpoint.Pass("networks/leave/withdrawn")
	if err := m.unplugUplinks(containerID, sb.endpoints); err != nil {
		ctxlog.From(ctx).Warn("interface on a parent was not deleted; it goes with its netns", ctxlog.ContainerID, containerID, ctxlog.Error, err)
	}
	if err := netns.Delete(m.cfg.netnsPath(containerID)); err != nil {
		return fmt.Errorf("leave network: %w", err)
	}
	for _, e := range sb.endpoints {
		select {
		case m.garbage <- e.HostVeth: // deleted in the background
		default:
		}
	}
	failpoint.Pass("networks/leave/unplugged")
	m.view.Delete(containerID)
	m.release(containerID, sb)
	m.peersChanged(ctx, sb.endpoints)
	for _, e := range sb.endpoints {
		m.announce(e, containerID, "disconnect")
	}
	return m.forgetRecord(containerID)
}

// announce publishes an event about an endpoint.
func (m *Manager) announce(e Endpoint, containerID, action string) {
	if n, err := m.find(e.NetworkID); err == nil {
		m.publish(n.Network, action, map[string]string{"container": containerID})
	}
}
