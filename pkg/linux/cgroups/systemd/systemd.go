// Package systemd starts transient scopes through systemd's D-Bus interface, for
// pkg/linux/cgroups. It is a package of its own so that only a runtime that is asked for
// the systemd driver touches D-Bus.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/godbus/dbus/v5"

	"strata/pkg/linux/cgroups"
)

const (
	service   = "org.freedesktop.systemd1"
	path      = dbus.ObjectPath("/org/freedesktop/systemd1")
	manager   = "org.freedesktop.systemd1.Manager"
	errExists = "org.freedesktop.systemd1.UnitExists"
)

// Scopes connects for each call; it keeps nothing open. The zero value talks to the
// system's systemd, or to the user's if the process is not root.
type Scopes struct {
	// Address of the bus; empty means the usual ones.
	Address string
}

var _ cgroups.Scopes = Scopes{}

// property is systemd's (sv).
type property struct {
	Name  string
	Value dbus.Variant
}

// auxiliary is the last argument of StartTransientUnit, which takes none here.
type auxiliary struct {
	Name       string
	Properties []property
}

// StartScope implements cgroups.Scopes. A failed scope of the same name, left by a
// container that was killed, is reset and started again. Errors: ErrUnavailable if
// systemd cannot be reached, ErrAlreadyExists for a name in use.
func (s Scopes) StartScope(ctx context.Context, scope cgroups.Scope, pid int) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("connect to systemd: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer func() { _ = conn.Close() }()

	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	match := []dbus.MatchOption{dbus.WithMatchInterface(manager), dbus.WithMatchMember("JobRemoved"), dbus.WithMatchObjectPath(path)}
	if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
		return fmt.Errorf("watch jobs: %w", err)
	}
	object := conn.Object(service, path)
	start := func() (dbus.ObjectPath, error) {
		var job dbus.ObjectPath
		err := object.CallWithContext(ctx, manager+".StartTransientUnit", 0, scope.Name, "replace", properties(scope, pid), []auxiliary{}).Store(&job)
		return job, err
	}
	job, err := start()
	if isName(err, errExists) {
		if rerr := object.CallWithContext(ctx, manager+".ResetFailedUnit", 0, scope.Name).Err; rerr == nil {
			job, err = start()
		}
		if isName(err, errExists) {
			return fmt.Errorf("unit exists: %w", errdefs.ErrAlreadyExists)
		}
	}
	if err != nil {
		return err
	}
	return await(ctx, signals, job)
}

// await reads JobRemoved(u id, o job, s unit, s result) until it is about job.
func await(ctx context.Context, signals <-chan *dbus.Signal, job dbus.ObjectPath) error {
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for systemd: %w", ctx.Err())
		case sig, ok := <-signals:
			if !ok {
				return fmt.Errorf("wait for systemd: connection lost: %w", errdefs.ErrUnavailable)
			}
			if sig.Name != manager+".JobRemoved" || len(sig.Body) < 4 || sig.Body[1] != job {
				continue
			}
			if result, _ := sig.Body[3].(string); result != "done" {
				return fmt.Errorf("systemd ended the job with %q: %w", result, errdefs.ErrFailedPrecondition)
			}
			return nil
		}
	}
}

func (s Scopes) connect(ctx context.Context) (*dbus.Conn, error) {
	if s.Address != "" {
		return dbus.Connect(s.Address, dbus.WithContext(ctx))
	}
	if os.Geteuid() == 0 {
		return dbus.ConnectSystemBus(dbus.WithContext(ctx))
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return dbus.Connect("unix:path="+dir+"/bus", dbus.WithContext(ctx))
	}
	return dbus.ConnectSessionBus(dbus.WithContext(ctx))
}

// properties are those of systemd.resource-control(5), as D-Bus spells them.
func properties(s cgroups.Scope, pid int) []property {
	p := []property{
		{"Description", dbus.MakeVariant(s.Description)},
		{"Slice", dbus.MakeVariant(s.Slice)},
		{"Delegate", dbus.MakeVariant(true)},
		{"DefaultDependencies", dbus.MakeVariant(false)},
		{"MemoryAccounting", dbus.MakeVariant(true)},
		{"CPUAccounting", dbus.MakeVariant(true)},
		{"IOAccounting", dbus.MakeVariant(true)},
		{"TasksAccounting", dbus.MakeVariant(true)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(pid)})},
	}
	add := func(name string, value uint64) {
		if value != 0 {
			p = append(p, property{name, dbus.MakeVariant(value)})
		}
	}
	add("MemoryMax", s.MemoryMax)
	add("CPUWeight", s.CPUWeight)
	add("CPUQuotaPerSecUSec", uint64(s.CPUQuota.Microseconds()))
	add("TasksMax", s.TasksMax)
	for name, list := range map[string]string{"AllowedCPUs": s.AllowedCPUs, "AllowedMemoryNodes": s.AllowedNodes} {
		if mask := bitmask(list); mask != nil {
			p = append(p, property{name, dbus.MakeVariant(mask)})
		}
	}
	return p
}

// bitmask turns a list such as "0-2,7" to systemd's array of bytes, lowest first; nil
// for an empty or malformed list, which the kernel will then refuse with its own words.
func bitmask(list string) []byte {
	bits := new(big.Int)
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
		b, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
		if err1 != nil || err2 != nil || b < a {
			return nil
		}
		for i := a; i <= b; i++ {
			bits.SetBit(bits, int(i), 1)
		}
	}
	out := bits.Bytes()
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

func isName(err error, name string) bool {
	e, ok := errors.AsType[dbus.Error](err)
	return ok && e.Name == name
}
