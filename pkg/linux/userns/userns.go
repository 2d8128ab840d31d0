package userns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Maps are the id maps of a user namespace.
type Maps struct {
	UID, GID []specs.LinuxIDMapping
}

// Write gives the user namespace of process pid its maps. A caller without CAP_SETUID that asks for more than its own
// id gets the maps from newuidmap and newgidmap, which must be in PATH. It can be
// done once for a namespace.
func Write(pid int, m Maps) error {
	if err := check(m); err != nil {
		return err
	}
	uids, gids := text(m.UID), text(m.GID)
	privileged := os.Geteuid() == 0
	if privileged {
		err := errors.Join(put(pid, "uid_map", uids), put(pid, "gid_map", gids))
		if err == nil || !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	if single(m.UID, os.Geteuid()) && single(m.GID, os.Getegid()) {
		// Without CAP_SETGID a gid_map may only be written once setgroups is off.
		return errors.Join(put(pid, "setgroups", []byte("deny")), put(pid, "uid_map", uids), put(pid, "gid_map", gids))
	}
	return errors.Join(helper("newuidmap", pid, m.UID), helper("newgidmap", pid, m.GID))
}

func check(m Maps) error {
	if len(m.UID) == 0 || len(m.GID) == 0 {
		return fmt.Errorf("user namespace without uid and gid mappings: %w", errdefs.ErrInvalidArgument)
	}
	for _, l := range append(append([]specs.LinuxIDMapping{}, m.UID...), m.GID...) {
		if l.Size == 0 {
			return fmt.Errorf("id mapping of size 0 at %d: %w", l.ContainerID, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func text(list []specs.LinuxIDMapping) []byte {
	var b bytes.Buffer
	for _, l := range list {
		fmt.Fprintf(&b, "%d %d %d\n", l.ContainerID, l.HostID, l.Size)
	}
	return b.Bytes()
}

func single(list []specs.LinuxIDMapping, id int) bool {
	return len(list) == 1 && list[0].Size == 1 && list[0].HostID == uint32(id)
}

func put(pid int, file string, data []byte) error {
	path := "/proc/" + strconv.Itoa(pid) + "/" + file
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// One write: the kernel takes a map whole or not at all.
	if _, err = f.Write(data); err != nil {
		err = fmt.Errorf("write %q: %w", data, err)
	}
	return errors.Join(err, f.Close())
}

func helper(name string, pid int, list []specs.LinuxIDMapping) error {
	args := []string{name, strconv.Itoa(pid)}
	for _, l := range list {
		args = append(args, utoa(l.ContainerID), utoa(l.HostID), utoa(l.Size))
	}
	path, err := look(name)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	p, err := os.StartProcess(path, args, &os.ProcAttr{Files: []*os.File{nil, w, w}})
	w.Close()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	_, _ = out.ReadFrom(r) // what the helper says is only for the message
	st, err := p.Wait()
	if err != nil {
		return err
	}
	if !st.Success() {
		return fmt.Errorf("%s: %s: %s", name, st, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

func look(name string) (string, error) {
	for _, dir := range []string{"/usr/bin", "/usr/local/bin", "/bin"} {
		if unix.Access(dir+"/"+name, unix.X_OK) == nil {
			return dir + "/" + name, nil
		}
	}
	return "", fmt.Errorf("%s, needed to map more than one id: %w", name, errdefs.ErrNotFound)
}

func utoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// Open makes a user namespace with the given maps and returns it; it lives as long as
// the descriptor or whatever it is used for. Close it.
func Open(m Maps) (*os.File, error) {
	if err := check(m); err != nil {
		return nil, err
	}
	var uid, gid []syscall.SysProcIDMap
	for _, l := range m.UID {
		uid = append(uid, syscall.SysProcIDMap{ContainerID: int(l.ContainerID), HostID: int(l.HostID), Size: int(l.Size)})
	}
	for _, l := range m.GID {
		gid = append(gid, syscall.SysProcIDMap{ContainerID: int(l.ContainerID), HostID: int(l.HostID), Size: int(l.Size)})
	}
	// A traced child stops at its execve, before any code of the file runs, and is
	// killed with its tracer.
	p, err := os.StartProcess("/proc/self/exe", []string{"userns"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: uid, GidMappings: gid,
		GidMappingsEnableSetgroups: true, Ptrace: true, Pdeathsig: unix.SIGKILL,
	}})
	if err != nil {
		return nil, fmt.Errorf("user namespace for id-mapped mount: %w", err)
	}
	defer func() {
		_ = p.Kill()
		_, _ = p.Wait()
	}()
	return os.Open("/proc/" + strconv.Itoa(p.Pid) + "/ns/user")
}
