package networks

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"strata/pkg/ctxlog"
)

// The kinds of Objects that Leaks finds and Mend removes.
const (
	kindNetns  = "netns"
	kindBridge = "bridge"
	kindVeth   = "veth"
	kindPort   = "port"

	// What somebody deleted.
	kindLostBridge = "lost bridge"
	kindLostVeth   = "lost veth"
)

// Examine is Leaks and a look for what is missing: bridges, veths, and elements of the
// firewall's maps of published ports. With mend, what can
// be put right is; the objects that were are the second result.
func (m *Manager) Examine(ctx context.Context, mend bool) (wrong, mended []Object, err error) {
	unlock := m.locks.Lock("create network") // a bridge exists before its network is listed
	defer unlock()
	wrong, err = m.Leaks(ctx)
	ports, perr := m.differences()
	wrong = append(wrong, ports...)
	lost, lerr := m.lost()
	wrong = append(wrong, lost...)
	err = errors.Join(err, perr, lerr)
	if !mend {
		return wrong, nil, err
	}
	var left []Object
	for _, o := range wrong {
		if merr := m.mend(ctx, o); merr != nil {
			err = errors.Join(err, fmt.Errorf("mend %s %s: %w", o.Kind, o.ID, merr))
			left = append(left, o)
			continue
		}
		mended = append(mended, o)
	}
	return left, mended, err
}

// differences are the published ports of which firewall and containers disagree.
func (m *Manager) differences() ([]Object, error) {
	if m.firewall == nil {
		return nil, nil
	}
	found, err := m.firewall.Differences()
	var out []Object
	for _, d := range found {
		detail := "element of " + d.Set + " of no container"
		if d.Missing {
			detail = "missing in " + d.Set
		}
		out = append(out, Object{kindPort, d.Element, detail})
	}
	return out, err
}

// mend removes what Leaks has found, or makes what is missing again.
func (m *Manager) mend(ctx context.Context, o Object) error {
	switch o.Kind {
	case kindNetns:
		return m.discard(filepath.Base(o.ID), nil)
	case kindVeth:
		return m.host.Unplug(o.ID)
	case kindPort:
		return m.firewall.Restore(ctx)
	case kindLostBridge:
		return m.mendBridge(ctx, o.ID)
	case kindLostVeth:
		return m.mendVeth(ctx, o.ID)
	case kindBridge:
		owned, err := m.host.Owned(m.instance + ":")
		if err != nil {
			return err
		}
		return m.host.Delete(o.ID, m.instance+":"+owned[o.ID])
	}
	return fmt.Errorf("internal error: nobody knows how to mend a %s", o.Kind)
}

// sweepBridges deletes the bridges of networks that were never recorded, or whose removal
// was cut short.
func (m *Manager) sweepBridges(ctx context.Context) {
	owned, err := m.host.Owned(m.instance + ":")
	for name, networkID := range owned {
		m.mu.Lock()
		_, known := m.networks[networkID]
		m.mu.Unlock()
		if !known {
			err = errors.Join(err, m.host.Delete(name, m.instance+":"+networkID))
		}
	}
	if err != nil {
		ctxlog.From(ctx).Warn("bridges of no network were not deleted", ctxlog.Error, err)
	}
}
