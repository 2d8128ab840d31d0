package caps

import (
	"os"
	"strconv"
	"strings"
)

// Set is a set of capabilities: bit n is capability number n.
type Set uint64

// Capabilities that the runtime itself asks for by name.
const (
	SetPCap     = 8
	SysPtrace   = 19
	SysAdmin    = 21
	SysResource = 24
)

// names is indexed by the capability's number.
var names = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// Known returns the names of all capabilities, by number.
func Known() []string { return names[:] }

// Name returns the name of capability number n, or "" if it has none.
func Name(n int) string {
	if n < 0 || n >= len(names) {
		return ""
	}
	return names[n]
}

// Parse returns the set of the given names, in any case. Names that the table or the
// running kernel (last is its highest number) does not have come back as unknown.
func Parse(list []string, last int) (s Set, unknown []string) {
	for _, name := range list {
		if n := number(name); n >= 0 && n <= last {
			s |= 1 << n
		} else {
			unknown = append(unknown, name)
		}
	}
	return s, unknown
}

func number(name string) int {
	for n, k := range names {
		if strings.EqualFold(k, name) {
			return n
		}
	}
	return -1
}

// Has reports whether capability number n is in the set.
func (s Set) Has(n int) bool { return s&(1<<n) != 0 }

// Names returns the names in the order of their numbers.
func (s Set) Names() []string {
	var out []string
	for n, k := range names {
		if s.Has(n) {
			out = append(out, k)
		}
	}
	return out
}

// Last returns the highest capability of the running kernel; if it cannot be read,
// the highest of the table.
//
// Source: /proc/sys/kernel/cap_last_cap, capabilities(7).
func Last() int {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return n
		}
	}
	return len(names) - 1
}

// Effective returns the effective set of the calling thread.
func Effective() (Set, error) {
	d, err := get()
	return Set(d[0].Effective) | Set(d[1].Effective)<<32, err
}
