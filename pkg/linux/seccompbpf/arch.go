package seccompbpf

import (
	"runtime"
	"sort"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The columns of table.
const (
	colAMD64 = iota
	col386
	colARM64
	colARM
	colRISCV64
	colLoong64
	colPPC64LE
	colS390X
	numColumns
)

// row is a system call and its numbers.
type row struct {
	name    string
	numbers [numColumns]int16
}

// x32Bit marks the numbers of the x32 ABI, which shares its audit architecture with
// x86_64. Source: Linux arch/x86/include/uapi/asm/unistd.h.
const x32Bit = 0x40000000

// arch is one set of system call numbers.
type arch struct {
	name  specs.Arch
	audit uint32 // AUDIT_ARCH_*
	col   int
	x32   bool
	width int // bits of an argument
}

// arches are the architectures that the compiler can make filters for. All but s390x are
// little endian, which the offsets in emitCondition rely on; see argOffsets.
var arches = [...]arch{
	{specs.ArchX86_64, 0xc000003e, colAMD64, false, 64},
	{specs.ArchX32, 0xc000003e, colAMD64, true, 64},
	{specs.ArchX86, 0x40000003, col386, false, 32},
	{specs.ArchAARCH64, 0xc00000b7, colARM64, false, 64},
	{specs.ArchARM, 0x40000028, colARM, false, 32},
	{specs.ArchRISCV64, 0xc00000f3, colRISCV64, false, 64},
	{specs.ArchLOONGARCH64, 0xc0000102, colLoong64, false, 64},
	{specs.ArchPPC64LE, 0xc0000015, colPPC64LE, false, 64},
	{specs.ArchS390X, 0x80000016, colS390X, false, 64},
}

// families lists, per GOARCH, what the kernel can run: the native architecture first.
var families = map[string][]specs.Arch{
	"amd64":   {specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
	"386":     {specs.ArchX86},
	"arm64":   {specs.ArchAARCH64, specs.ArchARM},
	"arm":     {specs.ArchARM},
	"riscv64": {specs.ArchRISCV64},
	"loong64": {specs.ArchLOONGARCH64},
	"ppc64le": {specs.ArchPPC64LE},
	"s390x":   {specs.ArchS390X},
}

// Native returns the architecture of this process, or "" if the compiler knows no
// numbers for it.
func Native() specs.Arch {
	if f := families[runtime.GOARCH]; len(f) > 0 {
		return f[0]
	}
	return ""
}

func find(name specs.Arch) (arch, bool) {
	for _, a := range arches {
		if a.name == name {
			return a, true
		}
	}
	return arch{}, false
}

// number returns the number of a system call.
func (a arch) number(name string) (uint32, bool) {
	if a.x32 {
		if nr, ok := x32Numbers[name]; ok {
			return nr | x32Bit, true
		}
	}
	i := sort.Search(len(table), func(i int) bool { return table[i].name >= name })
	if i == len(table) || table[i].name != name {
		return 0, false
	}
	nr := table[i].numbers[a.col]
	if nr < 0 {
		return 0, false
	}
	if a.x32 {
		return uint32(nr) | x32Bit, true
	}
	return uint32(nr), true
}

// x32Numbers are the calls that have a number of their own on x32.
// Source: Linux arch/x86/entry/syscalls/syscall_64.tbl, abi x32.
var x32Numbers = map[string]uint32{
	"rt_sigaction": 512, "rt_sigreturn": 513, "ioctl": 514, "readv": 515, "writev": 516, "recvfrom": 517,
	"sendmsg": 518, "recvmsg": 519, "execve": 520, "ptrace": 521, "rt_sigpending": 522, "rt_sigtimedwait": 523,
	"rt_sigqueueinfo": 524, "sigaltstack": 525, "timer_create": 526, "mq_notify": 527, "kexec_load": 528,
	"waitid": 529, "set_robust_list": 530, "get_robust_list": 531, "vmsplice": 532, "move_pages": 533,
	"preadv": 534, "pwritev": 535, "rt_tgsigqueueinfo": 536, "recvmmsg": 537, "sendmmsg": 538,
	"process_vm_readv": 539, "process_vm_writev": 540, "setsockopt": 541, "getsockopt": 542, "io_setup": 543,
	"io_submit": 544, "execveat": 545, "preadv2": 546, "pwritev2": 547,
}

// multiplexed are the calls that 32-bit x86 programs may make through socketcall(2)
// and ipc(2), with the number that selects them.
// Source: Linux include/uapi/linux/net.h, include/uapi/linux/ipc.h.
var multiplexed = map[string]struct {
	call string
	nr   uint64
}{
	"socket": {"socketcall", 1}, "bind": {"socketcall", 2}, "connect": {"socketcall", 3}, "listen": {"socketcall", 4},
	"accept": {"socketcall", 5}, "getsockname": {"socketcall", 6}, "getpeername": {"socketcall", 7},
	"socketpair": {"socketcall", 8}, "send": {"socketcall", 9}, "recv": {"socketcall", 10}, "sendto": {"socketcall", 11},
	"recvfrom": {"socketcall", 12}, "shutdown": {"socketcall", 13}, "setsockopt": {"socketcall", 14},
	"getsockopt": {"socketcall", 15}, "sendmsg": {"socketcall", 16}, "recvmsg": {"socketcall", 17},
	"accept4": {"socketcall", 18}, "recvmmsg": {"socketcall", 19}, "sendmmsg": {"socketcall", 20},
	"semop": {"ipc", 1}, "semget": {"ipc", 2}, "semctl": {"ipc", 3}, "semtimedop": {"ipc", 4}, "msgsnd": {"ipc", 11},
	"msgrcv": {"ipc", 12}, "msgget": {"ipc", 13}, "msgctl": {"ipc", 14}, "shmat": {"ipc", 21}, "shmdt": {"ipc", 22},
	"shmget": {"ipc", 23}, "shmctl": {"ipc", 24},
}
