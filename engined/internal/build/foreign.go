package build

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/ctxlog"
	"strata/pkg/linux/mount"
)

// binfmtDir is where the kernel lists the interpreters of foreign programs.
//
// Source: Linux Documentation/admin-guide/binfmt-misc.rst.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// machines are the ELF headers of platforms: class (1: 32 bits, 2: 64), byte order (1:
// little, 2: big) and e_machine (elf(5)).
var machines = map[string]struct {
	class, order byte
	machine      uint16
}{
	"386": {1, 1, 3}, "amd64": {2, 1, 62}, "arm": {1, 1, 40}, "arm64": {2, 1, 183}, "riscv64": {2, 1, 243},
	"ppc64le": {2, 1, 21}, "s390x": {2, 2, 22}, "loong64": {2, 1, 258}, "mips64le": {2, 1, 8}, "mips64": {2, 2, 8},
}

// canRun reports, as an error of class ErrNotImplemented, that programs of a platform run
// neither by themselves nor by an interpreter.
func (s *Service) canRun(ctx context.Context, p ocispec.Platform) error {
	if p.OS == "" || platforms.Only(s.host).Match(p) || s.emulates(ctx, p.Architecture) {
		return nil
	}
	return fmt.Errorf("programs for %s do not run on %s: no interpreter with flag F is registered in %s (Debian's package qemu-user-static registers them): %w",
		platforms.Format(p), platforms.Format(s.host), binfmtDir, errdefs.ErrNotImplemented)
}

// emulates is emulated for this host.
func (s *Service) emulates(ctx context.Context, arch string) bool {
	found := false
	withInterpreters(ctx, func(dir string) { found = emulated(dir, arch) })
	return found
}

// withInterpreters calls fn with the kernel's list of interpreters; not at all if there is
// none. In a container that has the engine, nobody may have mounted it.
func withInterpreters(ctx context.Context, fn func(dir string)) {
	if _, err := os.Stat(filepath.Join(binfmtDir, "status")); err == nil {
		fn(binfmtDir)
		return
	}
	err := mount.WithTemp(ctx, []mount.Mount{{Type: "binfmt_misc", Source: "binfmt_misc"}}, func(root string) error {
		fn(root)
		return nil
	})
	if err != nil {
		ctxlog.From(ctx).Debug("interpreters of foreign programs are not known", ctxlog.Error, err)
	}
}

// Platforms are those whose programs run here: the host's own, what that runs by itself, as
// amd64 does 386, and what is emulated.
func (s *Service) Platforms(ctx context.Context) []ocispec.Platform {
	out := []ocispec.Platform{s.host}
	var foreign []ocispec.Platform
	for _, arch := range slices.Sorted(maps.Keys(machines)) {
		p := platforms.Normalize(ocispec.Platform{OS: "linux", Architecture: arch})
		switch {
		case arch == s.host.Architecture:
		case platforms.Only(s.host).Match(p):
			out = append(out, p)
		default:
			foreign = append(foreign, p)
		}
	}
	withInterpreters(ctx, func(dir string) {
		for _, p := range foreign {
			if emulated(dir, p.Architecture) {
				out = append(out, p)
			}
		}
	})
	return out
}

// emulated reports whether an interpreter is registered for an architecture that works in
// a container: one that the kernel holds open (flag F). dir is a list of them.
func emulated(dir, arch string) bool {
	m, ok := machines[arch]
	if !ok {
		return false
	}
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
	entries, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return false
	}
	for _, name := range entries {
		text, err := os.ReadFile(name)
		if err == nil && registered(string(text), head) {
			return true
		}
	}
	return false
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
