package portlock

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Owner names a process that has a socket on proto port, as `nginx (pid 12)`, or returns
// "". It reads all of /proc: it is meant for error messages.
func Owner(proto string, port uint16) string {
	for _, file := range []string{proto, proto + "6"} {
		for _, inode := range inodes("/proc/thread-self/net/"+file, port) {
			if who := holder(inode); who != "" {
				return who
			}
		}
	}
	return ""
}

// inodes returns the sockets on a local port that listen, or are unconnected, in a file
// of the format of proc_net_tcp (kernel Documentation/networking/proc_net_tcp.rst).
func inodes(path string, port uint16) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	suffix := fmt.Sprintf(":%04X", port)
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], suffix) && strings.HasSuffix(fields[2], ":0000") {
			out = append(out, fields[9])
		}
	}
	return out
}

// holder finds a process with a descriptor of a socket.
func holder(inode string) string {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*") // fails only for a bad pattern
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(pid); err == nil && n == os.Getpid() {
			return "this engine"
		}
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), pid)
	}
	return ""
}
