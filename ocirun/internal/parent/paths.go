package parent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"strata/pkg/linux/inroot"
)

// maxLinks is how many symlinks a path may lead through, as in the kernel.
const maxLinks = 40

// throughDangling follows symlinks of the rootfs at dest as far as they go, so that a
// mount point can be made at the end of one that dangles. What comes out is only a path:
// the child resolves it anew, inside the root, whatever has become of it.
func (r *run) throughDangling(dest string) (string, error) {
	root, err := inroot.Open(r.rootfs())
	if err != nil {
		return "", err
	}
	defer root.Close()
	if f, err := root.OpenFile(dest, unix.O_PATH, 0); err == nil {
		return dest, f.Close()
	}
	done, rest := "/", strings.Split(strings.Trim(dest, "/"), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = filepath.Dir(done)
			continue
		}
		path := filepath.Join(done, name)
		target := readlink(root, path)
		if target == "" {
			done = path
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("mount point %q: %w", dest, unix.ELOOP)
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}

// readlink returns the target of a symlink below root, "" if path is none.
func readlink(root *inroot.Root, path string) string {
	f, err := root.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// procMounts returns where procfs and sysfs are mounted outside of rootfs, the last
// first.
//
// Source: proc_pid_mountinfo(5).
func procMounts(rootfs string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []string
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !ok || len(f) < 5 || !strings.HasPrefix(after, "proc ") && !strings.HasPrefix(after, "sysfs ") {
			continue
		}
		p := unescape.Replace(f[4])
		if !strings.HasPrefix(p+"/", rootfs+"/") {
			out = append([]string{p}, out...)
		}
	}
	return out, nil
}
