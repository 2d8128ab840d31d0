package seccompbpf

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const helperEnv = "SECCOMPBPF_TEST_PROFILE"

func TestMain(m *testing.M) {
	if p := os.Getenv(helperEnv); p != "" {
		helper(p)
	}
	os.Exit(m.Run())
}

// helper loads the profile and prints the errno of a few calls.
func helper(profile string) {
	runtime.LockOSThread()
	var p specs.LinuxSeccomp
	if err := json.Unmarshal([]byte(profile), &p); err != nil {
		panic(err)
	}
	prog, err := Compile(&p)
	if err != nil {
		panic(err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	fprog := struct {
		n     uint16
		insns *Insn
	}{uint16(len(prog.Insns)), &prog.Insns[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(prog.Flags), uintptr(unsafe.Pointer(&fprog))); e != 0 {
		panic(e)
	}
	var uts unix.Utsname
	_, _, socket := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	_, _, alg := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	_, _, newer := unix.RawSyscall(2000, 0, 0, 0)
	fmt.Printf("uname=%d socket=%d alg=%d newer=%d\n", errnoOf(unix.Uname(&uts)), socket, alg, newer)
	os.Exit(0)
}

func errnoOf(err error) int {
	var e unix.Errno
	if errors.As(err, &e) {
		return int(e)
	}
	return 0
}

func TestKernelEnforcesTheProgram(t *testing.T) {
	profile := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
		{"names":["uname"],"action":"SCMP_ACT_ERRNO","errnoRet":77},
		{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":78,"args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]}]}`
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+profile)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("helper: %v\n%s", err, out)
	}
	if got, want := strings.TrimSpace(string(out)), "uname=77 socket=0 alg=78 newer=38"; got != want {
		t.Errorf("under the filter %s, want %s", got, want)
	}
}
