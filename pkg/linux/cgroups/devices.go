package cgroups

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// access is a set of what may be done with a device, in the kernel's numbers.
//
// Source: Linux include/uapi/linux/bpf.h, BPF_DEVCG_ACC_*.
type access uint32

const (
	accessMknod access = 1 << iota
	accessRead
	accessWrite

	accessAll = accessMknod | accessRead | accessWrite
)

// anyNumber stands for every major or minor.
const anyNumber = -1

// rule is a checked device rule. kind is 'a', 'b' or 'c'.
type rule struct {
	allow        bool
	kind         byte
	major, minor int64
	access       access
}

// String returns what devices.allow and devices.deny take.
func (r rule) String() string {
	if r.all() {
		return "a"
	}
	s := []byte{r.kind, ' '}
	s = appendNumber(s, r.major)
	s = append(s, ':')
	s = append(appendNumber(s, r.minor), ' ')
	for _, a := range []struct {
		bit  access
		char byte
	}{{accessRead, 'r'}, {accessWrite, 'w'}, {accessMknod, 'm'}} {
		if r.access&a.bit != 0 {
			s = append(s, a.char)
		}
	}
	return string(s)
}

func appendNumber(b []byte, n int64) []byte {
	if n == anyNumber {
		return append(b, '*')
	}
	return strconv.AppendInt(b, n, 10)
}

// all reports whether the rule is about every device.
func (r rule) all() bool {
	return r.kind == 'a' && r.major == anyNumber && r.minor == anyNumber && r.access == accessAll
}

// defaultDevices are the devices that the spec promises to each container, and mknod,
// which the capability guards: they are allowed behind the caller's own rules.
//
// Source: runtime-spec v1.3 config-linux.md, "Default Devices"; pts is 136 (Linux
// Documentation/admin-guide/devices.txt).
var defaultDevices = []rule{
	{allow: true, kind: 'c', major: anyNumber, minor: anyNumber, access: accessMknod},
	{allow: true, kind: 'b', major: anyNumber, minor: anyNumber, access: accessMknod},
	{allow: true, kind: 'c', major: 1, minor: 3, access: accessAll},           // null
	{allow: true, kind: 'c', major: 1, minor: 5, access: accessAll},           // zero
	{allow: true, kind: 'c', major: 1, minor: 7, access: accessAll},           // full
	{allow: true, kind: 'c', major: 1, minor: 8, access: accessAll},           // random
	{allow: true, kind: 'c', major: 1, minor: 9, access: accessAll},           // urandom
	{allow: true, kind: 'c', major: 5, minor: 0, access: accessAll},           // tty
	{allow: true, kind: 'c', major: 5, minor: 2, access: accessAll},           // ptmx
	{allow: true, kind: 'c', major: 136, minor: anyNumber, access: accessAll}, // pts
}

// withDefaults adds defaultDevices, unless the last word is that all is allowed anyway.
func withDefaults(rules []rule) []rule {
	if n := len(rules); n > 0 && rules[n-1].all() && rules[n-1].allow {
		return rules
	}
	for _, d := range defaultDevices {
		if !slices.Contains(rules, d) {
			rules = append(rules, d)
		}
	}
	return rules
}

// compileRules checks the rules, splits what the kernel has no single rule for (type a
// with a number is a rule for b and one for c), and forgets what a later rule for all
// devices makes void. The default devices are allowed behind them.
func compileRules(in []specs.LinuxDeviceCgroup) ([]rule, error) {
	var out []rule
	for i, d := range in {
		r := rule{allow: d.Allow, major: anyNumber, minor: anyNumber}
		if d.Major != nil && *d.Major != anyNumber {
			r.major = *d.Major
		}
		if d.Minor != nil && *d.Minor != anyNumber {
			r.minor = *d.Minor
		}
		if r.major < anyNumber || r.minor < anyNumber || r.major > 1<<31-1 || r.minor > 1<<31-1 {
			return nil, fmt.Errorf("device rule %d: device %d:%d: %w", i, r.major, r.minor, errdefs.ErrInvalidArgument)
		}
		switch d.Type {
		case "", "a":
			r.kind = 'a'
		case "b", "c":
			r.kind = d.Type[0]
		case "u": // unbuffered character device: the kernel knows only c
			r.kind = 'c'
		default:
			return nil, fmt.Errorf("device rule %d: type %q is none of a, b, c: %w", i, d.Type, errdefs.ErrInvalidArgument)
		}
		for _, c := range d.Access {
			switch c {
			case 'r':
				r.access |= accessRead
			case 'w':
				r.access |= accessWrite
			case 'm':
				r.access |= accessMknod
			default:
				return nil, fmt.Errorf("device rule %d: access %q has letters other than r, w, m: %w", i, d.Access, errdefs.ErrInvalidArgument)
			}
		}
		if r.access == 0 {
			r.access = accessAll
		}
		switch {
		case r.all():
			out = append(out[:0], r)
		case r.kind == 'a':
			b, c := r, r
			b.kind, c.kind = 'b', 'c'
			out = append(out, b, c)
		default:
			out = append(out, r)
		}
	}
	return withDefaults(out), nil
}

// merge joins allow rules for the same device that no deny rule stands between: a
// program judges each request by one rule, while v1 adds their permissions up.
func merge(rules []rule) []rule {
	type key struct {
		kind         byte
		major, minor int64
	}
	var out []rule
	at := map[key]int{}
	for _, r := range rules {
		k := key{r.kind, r.major, r.minor}
		if !r.allow {
			clear(at)
			out = append(out, r)
			continue
		}
		if i, ok := at[k]; ok {
			out[i].access |= r.access
			continue
		}
		at[k] = len(out)
		out = append(out, r)
	}
	return out
}
