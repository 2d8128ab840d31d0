package caps

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTableMatchesTheKernelsNumbers(t *testing.T) {
	for name, n := range map[string]int{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_SETPCAP": unix.CAP_SETPCAP, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN,
		"CAP_SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "CAP_MKNOD": unix.CAP_MKNOD, "CAP_SYSLOG": unix.CAP_SYSLOG,
		"CAP_AUDIT_READ": unix.CAP_AUDIT_READ, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
		"CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE,
	} {
		if Name(n) != name {
			t.Errorf("Name(%d) = %q, want %q", n, Name(n), name)
		}
	}
	if len(names) != unix.CAP_LAST_CAP+1 {
		t.Errorf("table has %d names, the headers %d", len(names), unix.CAP_LAST_CAP+1)
	}
}

func TestParseReportsWhatTheKernelDoesNotKnow(t *testing.T) {
	s, unknown := Parse([]string{"cap_chown", "CAP_BPF", "CAP_NOPE"}, unix.CAP_AUDIT_READ)
	if s != 1 || !slices.Equal(unknown, []string{"CAP_BPF", "CAP_NOPE"}) {
		t.Errorf("Parse = %#x, unknown %v", s, unknown)
	}
}

func TestNamesIsTheInverseOfParse(t *testing.T) {
	s, unknown := Parse(Known(), len(names)-1)
	if len(unknown) != 0 || !slices.Equal(s.Names(), Known()) {
		t.Errorf("Names = %v, unknown %v", s.Names(), unknown)
	}
}
