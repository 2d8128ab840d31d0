package networks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/bridge"
	"strata/pkg/cleanup"
	"strata/pkg/failpoint"
)

// Connect puts a container on one more network. With a sandbox the interface is plugged
// in at once; without one the wish is only checked, and the returned Endpoint holds just
// the network's id and name: store the EndpointRequest and hand it to the next Join.
func (m *Manager) Connect(ctx context.Context, containerID string, r EndpointRequest) (Endpoint, error) {
	n, err := m.find(r.Network)
	if err != nil {
		return Endpoint{}, err
	}
	unlock := m.locks.Lock(containerID)
	defer unlock()
	m.mu.Lock()
	sb := m.sandboxes[containerID]
	m.mu.Unlock()
	if n.Driver == DriverHost {
		return Endpoint{}, fmt.Errorf("container cannot be connected to host network - container must be started with host network mode: %w", errdefs.ErrPermissionDenied)
	}
	if sb == nil {
		if err := m.checkEndpoint(&sandbox{}, n, r); err != nil {
			return Endpoint{}, err
		}
		return Endpoint{NetworkID: n.ID, NetworkName: n.Name}, nil
	}
	switch sb.request.Mode {
	case NetworkHost:
		return Endpoint{}, fmt.Errorf("container cannot be disconnected from host network or connected to host network: %w", errdefs.ErrPermissionDenied)
	case NetworkNone:
		return Endpoint{}, fmt.Errorf("container cannot be connected to multiple networks with one of the networks in private (none) mode: %w", errdefs.ErrPermissionDenied)
	}
	if n.Driver == DriverNone {
		return Endpoint{}, fmt.Errorf("container cannot be connected to multiple networks with one of the networks in private (none) mode: %w", errdefs.ErrPermissionDenied)
	}
	e, err := m.connect(ctx, sb, r)
	if err != nil {
		return Endpoint{}, err
	}
	m.show(sb)
	m.announce(e, containerID, "connect")
	return e, nil
}

// connect plugs a new endpoint into a sandbox. Preconditions: the container's lock is held.
func (m *Manager) connect(ctx context.Context, sb *sandbox, r EndpointRequest) (Endpoint, error) {
	var undo cleanup.Stack
	defer undo.Clean()
	before := sb.endpoints
	e, err := m.newEndpoint(sb, r)
	if err != nil {
		return Endpoint{}, err
	}
	if err := m.setEndpoints(sb, append(slices.Clone(before), e)); err != nil {
		return Endpoint{}, err
	}
	undo.Add(func() {
		_ = m.setEndpoints(sb, before)
		m.release("", &sandbox{endpoints: []Endpoint{e}})
		_ = m.save(sb)
	})
	if err := m.save(sb); err != nil { // the intent: the veth's name is on record before it exists
		return Endpoint{}, err
	}
	if err := failpoint.Hit("networks/connect/saved"); err != nil {
		return Endpoint{}, err
	}
	in, err := bridge.EnterNetns(m.cfg.netnsPath(sb.request.ContainerID))
	if err != nil {
		return Endpoint{}, err
	}
	defer func() { _ = in.Close() }()
	if e.IPv6.IsValid() {
		if err := in.EnableIPv6(); err != nil {
			return Endpoint{}, err
		}
	}
	if err := m.plug(ctx, in, e); err != nil {
		return Endpoint{}, err
	}
	undo.Add(func() {
		if e.HostVeth != "" {
			_ = m.host.Unplug(e.HostVeth)
		} else {
			_ = in.Remove(e.Interface)
		}
	})
	if err := m.rewire(in, sb, before); err != nil {
		return Endpoint{}, err
	}
	if err := failpoint.Hit("networks/connect/plugged"); err != nil {
		return Endpoint{}, err
	}
	undo.Release()
	m.peersChanged(ctx, []Endpoint{e})
	return e, m.writeOwnNames(sb, before)
}

// rewire makes default routes and published ports follow a change of the endpoints from
// before to sb's. Preconditions: the container's lock is held.
func (m *Manager) rewire(in *bridge.Inside, sb *sandbox, before []Endpoint) error {
	if err := m.route(in, sb.endpoints); err != nil {
		return err
	}
	old4, old6, _, _ := m.published(&sandbox{endpoints: before})
	new4, new6, _, _ := m.published(sb)
	if same(old4, new4) && same(old6, new6) || len(sb.request.Ports) == 0 {
		return m.save(sb)
	}
	wanted := sb.mapped
	if len(wanted) == 0 {
		wanted = sb.request.Ports
	}
	err := m.withdrawPorts(sb)
	return errors.Join(err, m.publishPorts(sb, wanted), m.save(sb))
}

func same(a, b *Endpoint) bool {
	return a == nil && b == nil || a != nil && b != nil && a.ID == b.ID
}

// setEndpoints replaces the endpoints of a listed sandbox, unless one is on a network that
// is being removed.
func (m *Manager) setEndpoints(sb *sandbox, endpoints []Endpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range endpoints {
		if n := m.networks[e.NetworkID]; n != nil && n.retired {
			return fmt.Errorf("network %s not found: %w", e.NetworkName, errdefs.ErrNotFound)
		}
	}
	sb.endpoints = endpoints
	return nil
}

// Disconnect takes a container off a network. attached is false if it has no endpoint
// there: then only the stored EndpointRequest is to be forgotten, if there is one.
func (m *Manager) Disconnect(ctx context.Context, containerID, ref string) (attached bool, err error) {
	n, err := m.find(ref)
	if err != nil {
		return false, err
	}
	unlock := m.locks.Lock(containerID)
	defer unlock()
	m.mu.Lock()
	sb := m.sandboxes[containerID]
	m.mu.Unlock()
	if sb == nil {
		return false, nil
	}
	before := sb.endpoints
	at := slices.IndexFunc(before, func(e Endpoint) bool { return e.NetworkID == n.ID })
	switch {
	case at < 0:
		return false, nil
	case n.Driver == DriverHost:
		return true, fmt.Errorf("container cannot be disconnected from host network - container was created in host network mode: %w", errdefs.ErrPermissionDenied)
	}
	gone := before[at]
	if err := m.setEndpoints(sb, slices.Delete(slices.Clone(before), at, at+1)); err != nil {
		return true, err
	}
	err = m.unplug(sb, gone, before)
	m.release("", &sandbox{endpoints: []Endpoint{gone}})
	m.peersChanged(ctx, []Endpoint{gone})
	m.show(sb)
	m.announce(gone, containerID, "disconnect")
	return true, errors.Join(err, m.writeOwnNames(sb, before))
}

// unplug takes an endpoint's interface away. Preconditions: the container's lock is held.
func (m *Manager) unplug(sb *sandbox, gone Endpoint, before []Endpoint) error {
	in, err := bridge.EnterNetns(m.cfg.netnsPath(sb.request.ContainerID))
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	switch {
	case gone.HostVeth != "":
		err = m.host.Unplug(gone.HostVeth)
	case gone.Interface != "":
		err = in.Remove(gone.Interface)
	}
	if err != nil {
		return err
	}
	return m.rewire(in, sb, before)
}

// Rename makes the names of peers follow a container's new name.
func (m *Manager) Rename(ctx context.Context, containerID, name string) error {
	unlock := m.locks.Lock(containerID)
	defer unlock()
	m.mu.Lock()
	sb := m.sandboxes[containerID]
	m.mu.Unlock()
	if sb == nil {
		return nil
	}
	endpoints := slices.Clone(sb.endpoints)
	m.mu.Lock()
	sb.request.ContainerName = name
	for i := range endpoints {
		if endpoints[i].DNSNames != nil {
			endpoints[i].DNSNames = dnsNames(sb.request, endpoints[i].Aliases)
		}
	}
	sb.endpoints = endpoints
	m.mu.Unlock()
	m.show(sb)
	m.peersChanged(ctx, endpoints)
	return m.save(sb)
}
