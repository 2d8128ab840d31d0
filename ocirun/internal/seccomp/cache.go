package seccomp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/atomicfile"
	"strata/pkg/linux/seccompbpf"
)

// magic changes with the compiler, so that an update of the runtime compiles anew.
const magic = "ocirun-bpf 1\n"

// Cache is a directory of filters.
type Cache struct{ Dir string }

// Filter is a compiled profile and the file that it is kept in.
type Filter struct {
	seccompbpf.Program
	Path string
}

// Get returns the program of a profile, given as JSON. The profile is only parsed if
// it is not in the cache. A cache that cannot be written is not an error.
func (c Cache) Get(profile []byte) (*Filter, error) {
	h := fnv.New64a()
	_, _ = h.Write(profile)
	path := filepath.Join(c.Dir, strconv.FormatUint(h.Sum64(), 16))
	if p, of, err := Read(path); err == nil && bytes.Equal(of, profile) {
		return &Filter{*p, path}, nil
	}
	var spec specs.LinuxSeccomp
	if err := json.Unmarshal(profile, &spec); err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	p, err := seccompbpf.Compile(&spec)
	if err != nil {
		return nil, err
	}
	f := &Filter{Program: *p}
	if err := c.put(path, profile, p); err == nil {
		f.Path = path
	}
	return f, nil
}

func (c Cache) put(path string, profile []byte, p *seccompbpf.Program) error {
	data := Encode(profile, p)
	err := atomicfile.Write(path, data, 0o600, atomicfile.Volatile)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(c.Dir, 0o700); err == nil {
			err = atomicfile.Write(path, data, 0o600, atomicfile.Volatile)
		}
	}
	return err
}

const insnSize = int(unsafe.Sizeof(seccompbpf.Insn{}))

// Encode renders the file of a program.
func Encode(profile []byte, p *seccompbpf.Program) []byte {
	out := []byte(magic)
	out = binary.NativeEndian.AppendUint32(out, p.Flags)
	out = binary.NativeEndian.AppendUint32(out, uint32(len(profile)))
	out = append(out, profile...)
	for _, in := range p.Insns {
		out = binary.NativeEndian.AppendUint16(out, in.Code)
		out = append(out, in.Jt, in.Jf)
		out = binary.NativeEndian.AppendUint32(out, in.K)
	}
	return out
}

var errMalformed = errors.New("malformed filter")

// Read reads a program and the profile that it was made of.
func Read(path string) (*seccompbpf.Program, []byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok || len(rest) < 8 {
		return nil, nil, fmt.Errorf("%s: %w", path, errMalformed)
	}
	p := &seccompbpf.Program{Flags: binary.NativeEndian.Uint32(rest)}
	n := binary.NativeEndian.Uint32(rest[4:])
	if rest = rest[8:]; uint64(n) > uint64(len(rest)) || (len(rest)-int(n))%insnSize != 0 {
		return nil, nil, fmt.Errorf("%s: %w", path, errMalformed)
	}
	profile, code := rest[:n], rest[n:]
	p.Notify = p.Flags&seccompbpf.FlagNewListener != 0
	p.Insns = make([]seccompbpf.Insn, len(code)/insnSize)
	for i := range p.Insns {
		c := code[i*insnSize:]
		p.Insns[i] = seccompbpf.Insn{Code: binary.NativeEndian.Uint16(c), Jt: c[2], Jf: c[3], K: binary.NativeEndian.Uint32(c[4:])}
	}
	return p, profile, nil
}
