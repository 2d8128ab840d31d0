package bridge

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

// claimName is where a running engine listens. The socket is abstract, so that it belongs to
// the netns, as bridges do, and ends with its process (unix(7)).
func claimName(instance string) string { return "@strata/engine/" + instance }

// Claim says to other engines of this netns, until the Host is closed, that the engine
// called instance runs: what it made is not theirs to take.
func (h *Host) Claim(instance string) error {
	l, err := net.Listen("unix", claimName(instance))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil // said already
	}
	if err != nil {
		return fmt.Errorf("claim bridges: %w", err)
	}
	h.claim = l
	return nil
}

// runs reports whether an engine of this netns has claimed its bridges. A doubt is a yes.
func runs(instance string) bool {
	c, err := net.Dial("unix", claimName(instance))
	if err != nil {
		return !errors.Is(err, syscall.ECONNREFUSED)
	}
	_ = c.Close() // nothing was said
	return true
}

// inherit takes a bridge away that an engine has left which is gone, with its data: nothing
// else would ever remove it. One that still has ports, or that another network of this
// engine or a running engine owns, is an error of class ErrConflict.
func (h *Host) inherit(link netlink.Link, owner string, s Spec) error {
	name := link.Attrs().Name
	theirs, _, _ := strings.Cut(owner, ":")
	if ours, _, _ := strings.Cut(s.Owner, ":"); theirs == ours || runs(theirs) {
		return fmt.Errorf("bridge %q belongs to another network or engine (%s); choose another name: %w", name, owner, errdefs.ErrConflict)
	}
	ports, err := h.Ports(name)
	if err != nil {
		return err
	}
	if len(ports) > 0 {
		return fmt.Errorf("bridge %q belongs to another network or engine (%s), which is gone, but %s is still attached; stop what uses it or run \"ip link delete %s\": %w",
			name, owner, strings.Join(ports, ", "), name, errdefs.ErrConflict)
	}
	if err := h.handle.LinkDel(link); err != nil {
		return fmt.Errorf("delete bridge %q of an engine that is gone: %w", name, err)
	}
	return nil
}
