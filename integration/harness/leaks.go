package harness

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// close removes the containers, ends the daemons and reports what is left behind.
func (s *Stack) close() {
	t := s.t
	if s.engine != nil && s.supervisor != nil {
		if r := s.Engine("ps", "-aq"); r.Code == 0 {
			if ids := strings.Fields(r.Stdout); len(ids) > 0 {
				if r := s.Engine(append([]string{"rm", "-fv"}, ids...)...); r.Code != 0 {
					t.Errorf("rm -f at the end: %+v", r)
				}
			}
		}
	}
	var left []string
	if !Eventually(5*time.Second, func() bool { left = s.leaks(); return len(left) == 0 }) {
		t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
	if t.Failed() {
		t.Log(s.Logs())
	}
	s.StopEngine()
	s.StopSupervisor()
	for _, pid := range s.shims() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	s.unmountAll()
	s.removeCgroups()
	_ = exec.Command("ip", "netns", "del", s.Netns).Run()
	if err := os.RemoveAll(s.Root); err != nil {
		t.Errorf("remove the root: %v", err)
	}
}

// leaks lists shims, mounts and network objects that no container accounts for any more.
func (s *Stack) leaks() []string {
	var out []string
	for _, pid := range s.shims() {
		cmdline, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		out = append(out, "process "+strconv.Itoa(pid)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
	}
	for _, m := range s.mounts() {
		if s.disk > 0 && m == filepath.Join(s.Root, "lib") {
			continue // SmallDisk's
		}
		out = append(out, "mount "+m)
	}
	links, _ := exec.Command("ip", "-n", s.Netns, "-o", "link", "show", "type", "veth").Output()
	for line := range strings.Lines(string(links)) {
		out = append(out, "interface "+strings.TrimSpace(line))
	}
	return out
}

// shims returns the shims whose command line or working directory names the stack's root.
func (s *Stack) shims() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if strings.Contains(string(cmdline), "containerd-shim-") && strings.Contains(string(cmdline), s.Root) {
			out = append(out, pid)
		}
	}
	return out
}

// mounts returns the mount points below the stack's root, last mounted first.
func (s *Stack) mounts() []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var out []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], s.Root+"/") {
			out = append([]string{fields[4]}, out...)
		}
	}
	return out
}

func (s *Stack) unmountAll() {
	for _, m := range s.mounts() {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
}

// KillShims kills all shims of the stack.
func (s *Stack) KillShims() {
	for _, pid := range s.shims() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
	}
}
