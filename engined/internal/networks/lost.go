package networks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"strata/engined/internal/networks/bridge"
	"strata/pkg/ctxlog"
)

// lost lists bridges of networks and interfaces of containers that somebody deleted, bridges
// first.
func (m *Manager) lost() ([]Object, error) {
	masters, err := m.host.Masters()
	if err != nil {
		return nil, err
	}
	var out []Object
	for _, n := range m.sorted() {
		if _, there := masters[n.options.bridge]; n.Driver == DriverBridge && !n.ConfigOnly && !there {
			out = append(out, Object{kindLostBridge, n.options.bridge, "of network " + n.Name})
		}
	}
	for _, sb := range m.all() {
		m.mu.Lock()
		endpoints, name, ready := sb.endpoints, sb.request.ContainerName, sb.ready
		m.mu.Unlock()
		for _, e := range endpoints {
			n, err := m.find(e.NetworkID)
			if err != nil || e.HostVeth == "" || !ready {
				continue
			}
			if master, there := masters[e.HostVeth]; !there || master != int(n.index.Load()) {
				out = append(out, Object{kindLostVeth, e.HostVeth, fmt.Sprintf("%s of container %s, network %s", e.Interface, name, n.Name)})
			}
		}
	}
	return out, nil
}

// mendLost makes again what was deleted while no engine ran.
func (m *Manager) mendLost(ctx context.Context) {
	lost, err := m.lost()
	if err != nil {
		ctxlog.From(ctx).Warn("nobody looked for lost interfaces", ctxlog.Error, err)
	}
	for _, o := range lost {
		if err := m.mend(ctx, o); err != nil {
			ctxlog.From(ctx).Warn("something that was deleted could not be made again", "kind", o.Kind, ctxlog.Name, o.ID, ctxlog.Error, err)
			continue
		}
		ctxlog.From(ctx).Info("something that was deleted was made again", "kind", o.Kind, ctxlog.Name, o.ID)
	}
}

// mendSandbox makes again what of a container's interfaces is missing. Preconditions: the
// container's lock is held.
func (m *Manager) mendSandbox(ctx context.Context, box Sandbox) error {
	for _, e := range box.Endpoints {
		if e.HostVeth == "" || m.host.Exists(e.HostVeth) {
			continue
		}
		ctxlog.From(ctx).Warn("interface of a container had vanished and is made anew", ctxlog.ContainerID, box.ContainerID, ctxlog.Name, e.HostVeth)
		if err := m.replug(ctx, box.ContainerID, e); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) mendBridge(ctx context.Context, name string) error {
	for _, n := range m.sorted() {
		if n.Driver == DriverBridge && !n.ConfigOnly && n.options.bridge == name {
			return m.bridge(ctx, n, nil)
		}
	}
	return fmt.Errorf("bridge %q: %w", name, errdefs.ErrNotFound)
}

// mendVeth finds the container that has a veth, and makes it again.
func (m *Manager) mendVeth(ctx context.Context, veth string) error {
	for _, sb := range m.all() {
		m.mu.Lock()
		containerID := sb.request.ContainerID
		i := slices.IndexFunc(sb.endpoints, func(e Endpoint) bool { return e.HostVeth == veth })
		m.mu.Unlock()
		if i < 0 {
			continue
		}
		unlock := m.locks.Lock(containerID)
		defer unlock()
		m.mu.Lock()
		i = slices.IndexFunc(sb.endpoints, func(e Endpoint) bool { return e.HostVeth == veth }) // it may have left meanwhile
		listed := m.sandboxes[containerID] == sb
		m.mu.Unlock()
		if i < 0 || !listed {
			return nil
		}
		return m.replug(ctx, containerID, sb.endpoints[i])
	}
	return nil // its container has left
}

// replug plugs an endpoint in again, or only puts it back onto its bridge. Preconditions: the
// container's lock is held.
func (m *Manager) replug(ctx context.Context, containerID string, e Endpoint) error {
	n, err := m.find(e.NetworkID)
	if err != nil {
		return err
	}
	if m.host.Exists(e.HostVeth) {
		return m.host.Attach(n.port(e))
	}
	in, err := bridge.EnterNetns(m.cfg.netnsPath(containerID))
	if err != nil {
		return err
	}
	if e.IPv6.IsValid() {
		err = in.EnableIPv6()
	}
	if err == nil {
		err = m.plug(ctx, in, e)
	}
	if err == nil {
		m.mu.Lock()
		sb := m.sandboxes[containerID]
		m.mu.Unlock()
		err = m.route(in, sb.endpoints)
	}
	return errors.Join(err, in.Close())
}

// reattach puts the containers of a network onto its bridge, which was made again.
func (m *Manager) reattach(ctx context.Context, n *network) {
	for _, sb := range m.all() {
		m.mu.Lock()
		endpoints, ready := sb.endpoints, sb.ready
		m.mu.Unlock()
		for _, e := range endpoints {
			if e.NetworkID != n.ID || e.HostVeth == "" || !ready {
				continue
			}
			if err := m.host.Attach(n.port(e)); err != nil && !errdefs.IsNotFound(err) {
				ctxlog.From(ctx).Warn("container was not put back onto its bridge", ctxlog.Network, n.Name, ctxlog.Name, e.HostVeth, ctxlog.Error, err)
			}
		}
	}
}
