package child

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The image of the tail, at a fixed address:
//
//	0x400000  ELF header, three program headers          (readable, executable)
//	0x400100  code (tail_GOARCH.s)
//	0x401000  ladder descriptor, address of the texts    (readable, writable)
//	0x401040  entries of 64 bytes: number, six arguments, flags
//	…         strings and structures
//
// The code makes the calls in order. An error ends it, unless the entry's flags say to
// ignore it: it goes over the ladder as KindTailFailed and, if the call was the execve,
// to standard error, because the parent may have gone. The entry flagged tailExec is an
// execve: its path is the tail's own argv[0], its argv the rest, its envp the tail's.
const (
	imageBase   = 0x400000
	imageCode   = 0x100 // the handler of signals
	imageEntry  = imageCode + 32
	imageHeader = 0x1000
	imageTable  = imageHeader + 64
	entrySize   = 64

	tailIgnore = 1
	tailExec   = 2
	tailPath   = 4

	maxCode = imageHeader - imageCode
)

// tailMark ends the code.
var tailMark = [8]byte{0xd0, 0xe4, 0x11, 0x7a, 0xd1, 0xe4, 0x11, 0x7a}

// Tail is the end of a program: a straight row of system calls, the last an execve.
type Tail struct {
	entries []tailEntry
	data    []byte
	relocs  []int // offsets in data of addresses, which count from the data's start
	texts   []tailText
}

type tailEntry struct {
	nr    int
	args  []TailArg
	flags uint64
	op    int
}

type tailText struct {
	errno unix.Errno
	text  string
}

// TailArg is a number or an address in the tail's data.
type TailArg struct {
	value uint64
	data  bool
}

// TailImm is a number.
func TailImm[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) TailArg {
	return TailArg{value: uint64(v)}
}

// Bytes puts b into the image, aligned to 8.
func (t *Tail) Bytes(b []byte) TailArg {
	for len(t.data)%8 != 0 {
		t.data = append(t.data, 0)
	}
	off := len(t.data)
	t.data = append(t.data, b...)
	return TailArg{uint64(off), true}
}

// Str puts s with a terminating zero into the image.
func (t *Tail) Str(s string) TailArg { return t.Bytes(append([]byte(s), 0)) }

// Pointer writes the address of to at offset off of at.
func (t *Tail) Pointer(at TailArg, off int, to TailArg) {
	p := int(at.value) + off
	binary.NativeEndian.PutUint64(t.data[p:], to.value)
	t.relocs = append(t.relocs, p)
}

// Sys adds a call of operation op.
func (t *Tail) Sys(op, nr int, args ...TailArg) {
	t.entries = append(t.entries, tailEntry{nr: nr, args: args, op: op})
}

// Try adds a call whose error is ignored.
func (t *Tail) Try(op, nr int, args ...TailArg) {
	t.entries = append(t.entries, tailEntry{nr: nr, args: args, op: op, flags: tailIgnore})
}

// Access adds a check that the user, as it is then, may execute the program. Only a clear
// no (EACCES) ends the tail: a filter may forbid the question.
//
// Source: faccessat2(2), Linux 5.8.
func (t *Tail) Access(op int) {
	const fdcwd = ^uint64(99) // AT_FDCWD, -100
	t.entries = append(t.entries, tailEntry{
		nr: unix.SYS_FACCESSAT2, op: op, flags: tailPath,
		args: []TailArg{TailImm(fdcwd), TailImm(0), TailImm(unix.X_OK), TailImm(unix.AT_EACCESS)},
	})
}

// EndOn makes the listed signals end the process until the execve. Their default action
// would not: the first process of a pid namespace only gets signals that it handles
// (pid_namespaces(7)).
func (t *Tail) EndOn(op int, signals ...unix.Signal) {
	const saRestorer = 0x04000000 // x86 wants one even for a handler that never returns
	act := make([]byte, 32)       // handler, flags, restorer, mask
	binary.NativeEndian.PutUint64(act, imageBase+imageCode)
	if runtime.GOARCH == "amd64" {
		binary.NativeEndian.PutUint64(act[8:], saRestorer)
		binary.NativeEndian.PutUint64(act[16:], imageBase+imageCode)
	}
	at := t.Bytes(act)
	for _, s := range signals {
		t.Sys(op, unix.SYS_RT_SIGACTION, TailImm(int(s)), at, TailImm(0), TailImm(8))
	}
}

// Exec adds the final execve. When it fails, the process writes describe(errno) to
// standard error.
func (t *Tail) Exec(op int, describe func(unix.Errno) string) {
	t.entries = append(t.entries, tailEntry{nr: unix.SYS_EXECVE, op: op, flags: tailExec})
	for _, e := range []unix.Errno{
		unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.EPERM, unix.E2BIG, unix.ENOMEM, unix.EISDIR,
		unix.ELOOP, unix.ETXTBSY, unix.EAGAIN, unix.ELIBBAD, unix.EIO, unix.EINVAL,
	} {
		t.texts = append(t.texts, tailText{e, describe(e)})
	}
	t.texts = append(t.texts, tailText{0, describe(0)})
}

// Entry returns the operation and the system call of entry i.
func (t *Tail) Entry(i int) (op, nr int) {
	if i < 0 || i >= len(t.entries) {
		return -1, -1
	}
	return t.entries[i].op, t.entries[i].nr
}

// IsExec reports whether entry i is the final execve.
func (t *Tail) IsExec(i int) bool {
	return i >= 0 && i < len(t.entries) && t.entries[i].flags&tailExec != 0
}

// Supported reports whether this architecture has a tail.
func Supported() bool { return runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64" }

// code returns the machine code.
func tailCodeBytes() ([]byte, error) {
	start := tailStart()
	text := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&start))), maxCode)
	for i := 0; i+len(tailMark) <= len(text); i++ {
		if [8]byte(text[i:i+8]) == tailMark {
			return text[:i], nil
		}
	}
	return nil, fmt.Errorf("internal error: the tail's code has no end")
}

// Image renders the ELF file. ladder is the number of the ladder's descriptor in the
// tail.
func (t *Tail) Image(ladder int) ([]byte, error) {
	code, err := tailCodeBytes()
	if err != nil {
		return nil, err
	}
	texts := t.Bytes(make([]byte, 24*len(t.texts)))
	for i, x := range t.texts {
		s := t.Str(x.text)
		binary.NativeEndian.PutUint64(t.data[int(texts.value)+24*i:], uint64(x.errno))
		t.Pointer(texts, 24*i+8, s)
		binary.NativeEndian.PutUint64(t.data[int(texts.value)+24*i+16:], uint64(len(x.text)))
	}
	dataOff := imageTable + entrySize*len(t.entries)
	img := make([]byte, dataOff+len(t.data))
	le := binary.NativeEndian
	elfHeader(img)
	copy(img[imageCode:], code)
	le.PutUint64(img[imageHeader:], uint64(ladder))
	le.PutUint64(img[imageHeader+8:], imageBase+uint64(dataOff)+texts.value)
	for i, e := range t.entries {
		p := img[imageTable+entrySize*i:]
		le.PutUint64(p, uint64(e.nr))
		for j, a := range e.args {
			v := a.value
			if a.data {
				v += imageBase + uint64(dataOff)
			}
			le.PutUint64(p[8+8*j:], v)
		}
		le.PutUint64(p[56:], e.flags)
	}
	copy(img[dataOff:], t.data)
	for _, r := range t.relocs {
		p := img[dataOff+r:]
		le.PutUint64(p, le.Uint64(p)+imageBase+uint64(dataOff))
	}
	return img, nil
}

// elfHeader writes the headers of a static executable: the code, the data, and a
// stack that is not executable. Source: elf(5).
func elfHeader(img []byte) {
	le := binary.NativeEndian
	copy(img, "\x7fELF\x02\x01\x01")
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
	le.PutUint16(img[16:], 2) // ET_EXEC
	le.PutUint16(img[18:], machine)
	le.PutUint32(img[20:], 1)
	le.PutUint64(img[24:], imageBase+imageEntry)
	le.PutUint64(img[32:], 64) // program headers
	le.PutUint16(img[52:], 64)
	le.PutUint16(img[54:], 56)
	le.PutUint16(img[56:], 3)
	for i, h := range [3]struct {
		kind, flags uint32
		off, size   uint64
	}{
		{1, 5, 0, imageHeader},                              // PT_LOAD, R X
		{1, 6, imageHeader, uint64(len(img)) - imageHeader}, // PT_LOAD, R W
		{0x6474e551, 6, 0, 0},                               // PT_GNU_STACK, R W
	} {
		p := img[64+56*i:]
		le.PutUint32(p, h.kind)
		le.PutUint32(p[4:], h.flags)
		if h.size == 0 {
			continue
		}
		le.PutUint64(p[8:], h.off)
		le.PutUint64(p[16:], imageBase+h.off)
		le.PutUint64(p[24:], imageBase+h.off)
		le.PutUint64(p[32:], h.size)
		le.PutUint64(p[40:], h.size)
		le.PutUint64(p[48:], 0x1000)
	}
}

// File puts the image into a nameless file that nobody can change any more. Where
// the kernel forbids executable memory files (vm.memfd_noexec=2) the error is
// EACCES.
//
// Source: memfd_create(2), MFD_EXEC: Linux 6.3.
func (t *Tail) File(ladder int) (*os.File, error) {
	img, err := t.Image(ladder)
	if err != nil {
		return nil, err
	}
	const mfdExec = 0x10
	fd, err := unix.MemfdCreate("ocirun", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|mfdExec)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("ocirun", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "tail")
	if _, err := f.Write(img); err != nil {
		f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return f, nil
}
