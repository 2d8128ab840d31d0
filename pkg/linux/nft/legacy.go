package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Legacy is what the filter table of the iptables before nftables says about forwarding.
type Legacy struct {
	Drops bool // the policy of FORWARD is to drop
	// In and Out are interfaces from which and to which a rule of the table accepts
	// packets, whatever else the rule asks for.
	In, Out []string
}

// Source: include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h,
// netfilter/x_tables.h: the numbers are the same for both families.
const (
	legacyGetInfo    = 64 // IPT_SO_GET_INFO
	legacyGetEntries = 65 // IPT_SO_GET_ENTRIES
	legacyInfoSize   = 84 // struct ipt_getinfo
	legacyHeader     = 40 // struct ipt_get_entries, before the entries
	hookForward      = 2  // NF_INET_FORWARD
	verdictDrop      = -1 // -NF_DROP - 1
	verdictAccept    = -2 // -NF_ACCEPT - 1
)

// legacyFamily is where the fields of an entry are.
type legacyFamily struct {
	names         string
	domain, level int
	in, out       int // names of interfaces
	target        int // offsets of the target and of the next entry
}

// ReadLegacy reads the filter table of the calling thread's netns. It loads no module and
// makes no table: ok is false if there is none.
func ReadLegacy(ipv6 bool) (l Legacy, ok bool, err error) {
	f := legacyFamily{"/proc/net/ip_tables_names", unix.AF_INET, unix.IPPROTO_IP, 16, 32, 88}
	if ipv6 {
		f = legacyFamily{"/proc/net/ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6, 64, 80, 140}
	}
	// Asking for a table that is not there makes it; this list tells without.
	names, err := os.ReadFile(f.names)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(names)), "filter") {
		return l, false, nil
	}
	if err != nil {
		return l, false, fmt.Errorf("list iptables tables: %w", err)
	}
	fd, err := unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return l, false, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	info := make([]byte, legacyInfoSize)
	copy(info, "filter")
	if err := getsockopt(fd, f.level, legacyGetInfo, info); err != nil {
		return l, false, fmt.Errorf("read iptables filter table: %w", err)
	}
	word := func(i int) int { return int(binary.NativeEndian.Uint32(info[32+4*i:])) }
	policy, size := word(6+hookForward), word(12)
	table := make([]byte, legacyHeader+size)
	copy(table, "filter")
	binary.NativeEndian.PutUint32(table[32:], uint32(size))
	if err := getsockopt(fd, f.level, legacyGetEntries, table); err != nil {
		return l, false, fmt.Errorf("read iptables filter table: %w", err) // EAGAIN: it changed meanwhile
	}
	l = f.read(table[legacyHeader:], policy)
	return l, true, nil
}

// read walks over the entries of a table; policy is the offset of the one that FORWARD ends
// with.
func (f legacyFamily) read(entries []byte, policy int) Legacy {
	var l Legacy
	for at := 0; at+f.target+4 <= len(entries); {
		e := entries[at:]
		target, next := int(binary.NativeEndian.Uint16(e[f.target:])), int(binary.NativeEndian.Uint16(e[f.target+2:]))
		if next <= f.target || next > len(e) || target+36 > next {
			return l // not what the headers say: better nothing than nonsense
		}
		standard := e[target+2] == 0 // the name of the standard target is empty
		verdict := int32(binary.NativeEndian.Uint32(e[target+32:]))
		if standard && at == policy && verdict == verdictDrop {
			l.Drops = true
		}
		if standard && verdict == verdictAccept {
			for _, i := range []struct {
				at   int
				list *[]string
			}{{f.in, &l.In}, {f.out, &l.Out}} {
				if name, _, _ := bytes.Cut(e[i.at:i.at+16], []byte{0}); len(name) > 0 {
					*i.list = append(*i.list, string(name))
				}
			}
		}
		at += next
	}
	return l
}

func getsockopt(fd, level, name int, buf []byte) error {
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}
