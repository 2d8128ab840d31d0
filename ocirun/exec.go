package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strata/ocirun/internal/parent"
	"strata/ocirun/internal/plan"
	"strata/ocirun/internal/seccomp"
	"strata/ocirun/internal/selfexe"
	"strata/ocirun/internal/state"
	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/fdpass"
)

// execFlags are those of exec.
type execFlags struct {
	process, pidFile, consoleSocket, pidfdSocket string
	detach, ignorePaused                         bool
	preserveFDs                                  int
	words                                        processFlags
	cgroup                                       []string
}

// processFlags change the container's process to the one to be run.
type processFlags struct {
	cwd, user, apparmor, label string
	env, gids, caps            []string
	tty, noNewPrivs            bool
}

func (e *execFlags) define(f *flags) {
	f.str(&e.process, "process", "p")
	f.str(&e.pidFile, "pid-file")
	f.str(&e.consoleSocket, "console-socket")
	f.str(&e.pidfdSocket, "pidfd-socket")
	f.bool(&e.detach, "detach", "d")
	f.bool(&e.ignorePaused, "ignore-paused")
	f.int(&e.preserveFDs, "preserve-fds")
	f.strs(&e.cgroup, "cgroup")
	w := &e.words
	f.str(&w.cwd, "cwd")
	f.str(&w.user, "user", "u")
	f.strs(&w.env, "env", "e")
	f.strs(&w.gids, "additional-gids", "g")
	f.strs(&w.caps, "cap", "c")
	f.bool(&w.tty, "tty", "t")
	f.bool(&w.noNewPrivs, "no-new-privs")
	f.str(&w.apparmor, "apparmor")
	f.str(&w.label, "process-label")
	f.ignored("no-subreaper")
}

// execError is the status of an exec that could not be made, as runc has it.
const execError = 255

func (a *app) exec(ctx context.Context, args []string) error {
	err := a.execVerb(ctx, args)
	var status exitError
	if err == nil || errors.As(err, &status) {
		return err
	}
	a.complain(ctx, err)
	return exitError(execError)
}

func (a *app) execVerb(ctx context.Context, args []string) error {
	var e execFlags
	f := newFlags("exec")
	e.define(f)
	rest, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(rest) < 1 || len(rest) < 2 && e.process == "" {
		return fmt.Errorf("%q requires a minimum of %d argument(s): %w", "exec", 2, errdefs.ErrInvalidArgument)
	}
	st, err := a.store.Load(rest[0])
	if err != nil {
		return err
	}
	switch s := a.status(st); {
	case s == state.Stopped:
		return errors.New("cannot exec in a stopped container")
	case s == state.Paused && !e.ignorePaused:
		return errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	p, err := a.execProcess(st, &e, rest[1:])
	if err != nil {
		return err
	}
	if !hasNamespace(st, specs.UserNamespace) && (hasPtrace(st.Config.Bounding) || st.Config.Seccomp != nil && st.Config.Seccomp.Notify || p.ApparmorProfile != "" || p.SelinuxLabel != "") {
		if err := selfexe.Protect(); err != nil {
			return err
		}
	}
	return a.runExec(ctx, st, e, p)
}

// execProcess reads the process to run, or makes it from the container's own.
func (a *app) execProcess(st *state.State, e *execFlags, argv []string) (*specs.Process, error) {
	if e.process != "" {
		data, err := os.ReadFile(e.process)
		if err != nil {
			return nil, err
		}
		p := &specs.Process{}
		if err := json.Unmarshal(data, p); err != nil {
			return nil, fmt.Errorf("parse %s: %w", e.process, err)
		}
		if e.words.tty {
			p.Terminal = true
		}
		return p, nil
	}
	spec, _, err := loadSpec(st.Bundle)
	if err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return nil, fmt.Errorf("spec of container %q without a process: %w", st.ID, errdefs.ErrInvalidArgument)
	}
	p := spec.Process
	p.Args = argv
	p.Terminal = e.words.tty
	return p, e.words.apply(p)
}

func (w processFlags) apply(p *specs.Process) error {
	if w.cwd != "" {
		p.Cwd = w.cwd
	}
	if w.apparmor != "" {
		p.ApparmorProfile = w.apparmor
	}
	if w.label != "" {
		p.SelinuxLabel = w.label
	}
	p.Env = append(p.Env, w.env...)
	if w.noNewPrivs {
		p.NoNewPrivileges = true
	}
	if len(w.caps) > 0 {
		if p.Capabilities == nil {
			p.Capabilities = &specs.LinuxCapabilities{}
		}
		c := p.Capabilities
		// Not inheritable: CVE-2022-29162.
		c.Bounding = append(c.Bounding, w.caps...)
		c.Effective = append(c.Effective, w.caps...)
		c.Permitted = append(c.Permitted, w.caps...)
		if c.Ambient != nil {
			c.Ambient = append(c.Ambient, w.caps...)
			c.Inheritable = append(c.Inheritable, w.caps...)
		}
	}
	if w.user != "" {
		var err error
		if p.User.UID, p.User.GID, err = parseUser(w.user, p.User.GID); err != nil {
			return err
		}
	}
	for _, list := range w.gids {
		for g := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseUint(g, 10, 31)
			if err != nil {
				return fmt.Errorf("additional gid %q: %w", g, errdefs.ErrInvalidArgument)
			}
			p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(n))
		}
	}
	return nil
}

// parseUser parses "uid[:gid]". It is strict: a name or a trailing byte taken for 0
// would be root (CVE-2026-30892).
func parseUser(s string, gid uint32) (uint32, uint32, error) {
	u, g, both := strings.Cut(s, ":")
	uid, err := strconv.ParseUint(u, 10, 31)
	if err != nil {
		return 0, 0, fmt.Errorf("user %q is not uid[:gid]: %w", s, errdefs.ErrInvalidArgument)
	}
	if both {
		n, err := strconv.ParseUint(g, 10, 31)
		if err != nil {
			return 0, 0, fmt.Errorf("user %q is not uid[:gid]: %w", s, errdefs.ErrInvalidArgument)
		}
		gid = uint32(n)
	}
	return uint32(uid), gid, nil
}

func (a *app) runExec(ctx context.Context, st *state.State, e execFlags, p *specs.Process) error {
	pidfd, err := openInit(st)
	if err != nil {
		return err
	}
	defer pidfd.Close()
	args := parent.Args{
		Unprivileged: a.unprivileged(), Task: pidfd, OOMScoreAdj: p.OOMScoreAdj,
		Preserve: e.preserveFDs + listenFDs(),
	}
	h := plan.Host{ID: st.ID, NoNewKeyring: st.Config.NoNewKeyring, ListenFDs: listenFDs(), Foreground: p.Terminal && e.consoleSocket == ""}
	a.privilege(&h, p)
	if err := a.execFilter(st, &h, &args); err != nil {
		return err
	}
	if !hasEnv(p.Env, "HOME") {
		if h.Home, err = homeBelow("/proc/"+strconv.Itoa(st.PID)+"/root", p.User.UID); err != nil {
			return err
		}
	}
	if p.ExecCPUAffinity == nil {
		p.ExecCPUAffinity = st.Config.ExecAffinity
	}
	if af := p.ExecCPUAffinity; af != nil && af.Initial != "" {
		if args.Affinity, err = plan.ParseCPUs(af.Initial); err != nil {
			return err
		}
	}
	if args.Plan, err = plan.CompileExec(p, plan.Task{Types: st.Config.Namespaces, Personality: st.Config.Personality}, h); err != nil {
		return err
	}
	logPlan(ctx, args.Plan)
	if args.Cgroup, err = execCgroup(st, e.cgroup); err != nil {
		return err
	}
	return a.startExec(ctx, e, p, args)
}

// openInit opens the init process, which has been checked to be the container's.
func openInit(st *state.State) (*os.File, error) {
	fd, err := unix.PidfdOpen(st.PID, 0)
	if err != nil {
		return nil, errors.New("cannot exec in a stopped container")
	}
	f := os.NewFile(uintptr(fd), "init")
	if !st.Alive() {
		return nil, errors.Join(errors.New("cannot exec in a stopped container"), f.Close())
	}
	return f, nil
}

// execFilter reads the container's filter.
func (a *app) execFilter(st *state.State, h *plan.Host, args *parent.Args) error {
	sc := st.Config.Seccomp
	if sc == nil {
		return nil
	}
	prog, _, err := seccomp.Read(filepath.Join(a.store.Dir(st.ID), state.FilterFile))
	if err != nil {
		return err
	}
	args.Filter = prog.Insns
	h.Seccomp = &plan.Seccomp{Flags: sc.Flags, Notify: sc.Notify}
	args.Callbacks.Listener = func(pid int, fd *os.File) error {
		return sendListener(st, pid, sc.ListenerPath, sc.ListenerMetadata, fd)
	}
	return nil
}

// execCgroup is the container's cgroup, or the one below it that --cgroup names:
// "[controller,…:]path".
func execCgroup(st *state.State, list []string) (*cgroups.Manager, error) {
	if len(st.Cgroup.Paths) == 0 {
		return nil, nil
	}
	paths := map[string]string{}
	maps.Copy(paths, st.Cgroup.Paths)
	for _, c := range list {
		names, sub, both := strings.Cut(c, ":")
		if !both {
			names, sub = "", c
		}
		if !filepath.IsLocal(strings.TrimLeft(sub, "/") + "/.") {
			return nil, fmt.Errorf("bad sub cgroup path: %q: %w", sub, errdefs.ErrInvalidArgument)
		}
		if err := subCgroup(paths, st.Cgroup.Paths, names, sub); err != nil {
			return nil, err
		}
	}
	return cgroups.Load(paths), nil
}

// subCgroup changes the directories of the named controllers, or of all.
func subCgroup(paths, own map[string]string, names, sub string) error {
	set := func(k string) error {
		dir, ok := own[k]
		if !ok {
			return fmt.Errorf("unknown controller %s: %w", k, errdefs.ErrInvalidArgument)
		}
		paths[k] = filepath.Join(dir, sub)
		if _, err := os.Stat(paths[k]); err != nil {
			return fmt.Errorf("error adding pid to cgroups: %w", err)
		}
		return nil
	}
	if names == "" {
		for k := range own {
			if err := set(k); err != nil {
				return err
			}
		}
		return nil
	}
	for k := range strings.SplitSeq(names, ",") {
		if err := set(k); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) startExec(ctx context.Context, e execFlags, p *specs.Process, args parent.Args) error {
	var t *terminal
	switch {
	case p.Terminal && e.consoleSocket != "":
		sock, err := fdpass.Connect(e.consoleSocket)
		if err != nil {
			return err
		}
		defer sock.Close()
		args.ConsoleSocket = sock
	case p.Terminal && e.detach:
		return fmt.Errorf("cannot allocate tty if runc will detach without setting console socket: %w", errdefs.ErrInvalidArgument)
	case p.Terminal:
		var err error
		if t, err = newTerminal(a.cfg); err != nil {
			return err
		}
		defer t.close()
		args.ConsoleSocket = t.childEnd
	}
	if !e.detach {
		args.Foreground = true
	}
	fw := newForwarder(!e.detach)
	defer fw.stop()
	c, err := parent.Run(ctx, args)
	if t != nil {
		// Also after a failure: what the program's start said is in the terminal.
		if aerr := t.attach(); aerr == nil && err != nil {
			t.drain()
		} else if err == nil {
			err = aerr
		}
	}
	if x := (*parent.ExecError)(nil); errors.As(err, &x) && !e.detach {
		return exitError(execError)
	}
	if err != nil {
		return fmt.Errorf("exec failed: unable to start container process: %w", err)
	}
	defer c.Pidfd.Close()
	if e.pidfdSocket != "" {
		if err := sendPidfd(e.pidfdSocket, c.Pidfd); err != nil {
			return err
		}
	}
	if err := writePID(e.pidFile, c.PID); err != nil {
		_ = unix.Kill(c.PID, unix.SIGKILL) // our own child
		return err
	}
	if e.detach {
		return nil
	}
	return a.wait(c, t, fw)
}
