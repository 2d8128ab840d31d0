// Package binfmt tells which foreign programs the kernel runs with an interpreter: qemu's, as
// Debian's qemu-user-static registers it.
//
// It reads the kernel's list and changes nothing in it. Only interpreters with flag F count:
// the kernel holds those open, so that they work in a container that has no such file.
//
// Source: Linux Documentation/admin-guide/binfmt-misc.rst.
package binfmt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"strata/pkg/ctxlog"
	"strata/pkg/linux/mount"
)

// Dir is where the list usually is.
const Dir = "/proc/sys/fs/binfmt_misc"

// machines are the ELF headers of architectures by Go's names: class (1: 32 bits, 2: 64), byte
// order (1: little, 2: big) and e_machine (elf(5)).
var machines = map[string]struct {
	class, order byte
	machine      uint16
}{
	"386": {1, 1, 3}, "amd64": {2, 1, 62}, "arm": {1, 1, 40}, "arm64": {2, 1, 183}, "riscv64": {2, 1, 243},
	"ppc64le": {2, 1, 21}, "s390x": {2, 2, 22}, "loong64": {2, 1, 258}, "mips64le": {2, 1, 8}, "mips64": {2, 2, 8},
}

// Architectures returns those that have an interpreter, by Go's names, in order. Where nobody
// has mounted the list, as in a container, it is looked at without being mounted for others.
func Architectures(ctx context.Context) []string {
	if _, err := os.Stat(filepath.Join(Dir, "status")); err == nil {
		return listed(Dir)
	}
	var out []string
	err := mount.WithTemp(ctx, []mount.Mount{{Type: "binfmt_misc", Source: "binfmt_misc"}}, func(root string) error {
		out = listed(root)
		return nil
	})
	if err != nil {
		ctxlog.From(ctx).Debug("interpreters of foreign programs are not known", ctxlog.Error, err)
	}
	return out
}

// listed returns the architectures of the list in dir.
func listed(dir string) []string {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil
	}
	var entries []string
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil {
			entries = append(entries, string(text))
		}
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(machines)), func(arch string) bool {
		head := beginning(arch)
		return !slices.ContainsFunc(entries, func(text string) bool { return registered(text, head) })
	})
}

// beginning is how a program of an architecture begins.
func beginning(arch string) []byte {
	m := machines[arch]
	head := make([]byte, 128) // BINPRM_BUF_SIZE was this once; an entry matches within
	copy(head, "\x7fELF")
	head[4], head[5], head[6] = m.class, m.order, 1
	order := binary.ByteOrder(binary.LittleEndian)
	if m.order == 2 {
		order = binary.BigEndian
	}
	order.PutUint16(head[16:], 2) // ET_EXEC
	order.PutUint16(head[18:], m.machine)
	order.PutUint32(head[20:], 1)
	return head
}

// registered reports whether an entry of binfmt_misc is for programs that begin with head.
func registered(entry string, head []byte) bool {
	var magic, mask []byte
	offset, enabled, fixed := 0, false, false
	for line := range strings.SplitSeq(entry, "\n") {
		word, value, _ := strings.Cut(line, " ")
		switch word {
		case "enabled":
			enabled = true
		case "flags:":
			fixed = strings.Contains(value, "F")
		case "offset":
			offset, _ = strconv.Atoi(value) // zero otherwise
		case "magic":
			magic, _ = hex.DecodeString(value) // no match otherwise
		case "mask":
			mask, _ = hex.DecodeString(value) // of all otherwise
		}
	}
	if !enabled || !fixed || len(magic) == 0 || offset+len(magic) > len(head) {
		return false
	}
	got := bytes.Clone(head[offset : offset+len(magic)])
	for i := range got {
		if i < len(mask) {
			got[i] &= mask[i]
			magic[i] &= mask[i]
		}
	}
	return bytes.Equal(got, magic)
}
