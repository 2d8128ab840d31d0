package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strata/ocirun/internal/hooks"
	"strata/ocirun/internal/parent"
	"strata/ocirun/internal/plan"
	"strata/ocirun/internal/seccomp"
	"strata/ocirun/internal/selfexe"
	"strata/ocirun/internal/state"
	"strata/pkg/atomicfile"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/fdpass"
	"strata/pkg/linux/userns"
)

// createFlags are those of create and run.
type createFlags struct {
	bundle, consoleSocket, pidFile, pidfdSocket string
	noPivot, noNewKeyring, dryRun               bool
	preserveFDs                                 int
	// For run.
	detach, keep, noSubreaper bool
}

func (c *createFlags) define(f *flags) {
	f.str(&c.bundle, "bundle", "b")
	f.str(&c.consoleSocket, "console-socket")
	f.str(&c.pidFile, "pid-file")
	f.str(&c.pidfdSocket, "pidfd-socket")
	f.bool(&c.noPivot, "no-pivot")
	f.bool(&c.noNewKeyring, "no-new-keyring")
	f.int(&c.preserveFDs, "preserve-fds")
	f.bool(&c.dryRun, "dry-run")
}

func (a *app) create(ctx context.Context, args []string) error {
	var c createFlags
	f := newFlags("create")
	c.define(f)
	id, err := f.parseID(args)
	if err != nil {
		return err
	}
	_, err = a.createContainer(ctx, id, c, nil)
	return err
}

// creation is a container in the making.
type creation struct {
	app      *app
	flags    createFlags
	id       string
	bundle   string
	spec     *specs.Spec
	filter   *seccomp.Filter
	listener *specs.LinuxSeccomp // the listener's words, if there is one
	cgroup   *cgroups.Manager
	plan     *plan.Plan
	st       *state.State
	term     *terminal // of a foreground run
	run      bool      // the caller sees the container through to the execve
	mark     time.Time
}

// step records the time since the last one.
func (c *creation) step(name string, start time.Time) {
	c.st.Steps = append(c.st.Steps, state.Step{Name: name, Start: start, DurationNanos: time.Since(start).Nanoseconds()})
	c.mark = time.Now()
}

// createContainer makes a container that waits for its start.
func (a *app) createContainer(ctx context.Context, id string, fl createFlags, t *terminal) (*parent.Child, error) {
	return (&creation{app: a, flags: fl, id: id, term: t, st: &state.State{ID: id}, mark: time.Now()}).create(ctx)
}

// createForRun is createContainer for a caller that sees the container through to the
// execve. A dry run gives no child.
func (a *app) createForRun(ctx context.Context, id string, fl createFlags, t *terminal) (*parent.Child, error) {
	return (&creation{app: a, flags: fl, id: id, term: t, run: true, st: &state.State{ID: id}, mark: time.Now()}).create(ctx)
}

func (c *creation) create(ctx context.Context) (_ *parent.Child, err error) {
	a, fl, id := c.app, c.flags, c.id
	if err := c.load(); err != nil {
		return nil, err
	}
	c.step("spec", c.mark)
	if fl.dryRun {
		return nil, c.dryRun()
	}
	if needsSeal(c.spec) || c.filter != nil && c.filter.Notify {
		// Before anything is made: it starts the program anew.
		if err := selfexe.Protect(); err != nil {
			return nil, err
		}
	}
	var undo cleanup.Stack
	defer undo.Clean()
	if err := a.store.Make(id); err != nil {
		return nil, err
	}
	undo.Add(func() { err = errors.Join(err, a.store.Remove(id)) })
	if err := c.makeCgroup(&undo, &err); err != nil {
		return nil, err
	}
	c.step("cgroup", c.mark)
	if err := c.compile(); err != nil {
		return nil, err
	}
	logPlan(ctx, c.plan)
	c.step("plan", c.mark)
	child, err := c.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("unable to start container process: %w", err)
	}
	if !c.run {
		defer child.Pidfd.Close()
	}
	if err := c.finish(child); err != nil {
		_ = unix.Kill(child.PID, unix.SIGKILL) // our own child
		return nil, err
	}
	undo.Release()
	return child, nil
}

// load reads the bundle.
func (c *creation) load() error {
	if err := state.ValidateID(c.id); err != nil {
		return err
	}
	dir := c.flags.bundle
	if dir == "" {
		dir = "."
	}
	var err error
	if c.bundle, err = filepath.Abs(dir); err != nil {
		return err
	}
	spec, profile, err := loadSpec(c.bundle)
	if err != nil {
		return err
	}
	c.spec = spec
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	if len(spec.Linux.NetDevices) > 0 {
		return fmt.Errorf("linux.netDevices: %w", errdefs.ErrNotImplemented)
	}
	if spec.Linux.IntelRdt != nil {
		return fmt.Errorf("linux.intelRdt: %w", errdefs.ErrNotImplemented)
	}
	if profile == nil {
		return nil
	}
	c.filter, err = seccomp.Cache{Dir: filepath.Join(c.app.store.Root, ".cache", "seccomp")}.Get(profile)
	if err != nil {
		return err
	}
	if c.filter.Notify {
		c.listener = &specs.LinuxSeccomp{}
		if err := json.Unmarshal(profile, c.listener); err != nil {
			return fmt.Errorf("seccomp profile: %w", err)
		}
		if c.listener.ListenerPath == "" {
			return fmt.Errorf("seccomp: listenerPath must be set for SCMP_ACT_NOTIFY: %w", errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// compile makes the plan, and makes sure that the binary is protected where the plan
// needs that.
func (c *creation) compile() error {
	h, err := c.host()
	if err != nil {
		return err
	}
	if c.plan, err = plan.Compile(c.spec, h); err != nil {
		return err
	}
	if p := c.spec.Process; c.flags.dryRun {
		return nil
	} else if p.Terminal && c.flags.consoleSocket == "" && c.term == nil {
		return fmt.Errorf("cannot allocate tty if runc will detach without setting console socket: %w", errdefs.ErrInvalidArgument)
	} else if !p.Terminal && c.flags.consoleSocket != "" {
		return fmt.Errorf("cannot use console socket if runc will not detach or allocate tty: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// logPlan logs what the plan weakens and, for developers, what it does.
func logPlan(ctx context.Context, p *plan.Plan) {
	log := ctxlog.From(ctx)
	for _, w := range p.Warnings {
		log.Warn(w)
	}
	if log.Enabled(ctx, slog.LevelDebug) {
		for i, o := range p.Ops {
			log.Debug("operation of the plan", "op", i, "text", o.String())
		}
	}
}

// dryRun prints the plan.
func (c *creation) dryRun() error {
	var err error
	if c.cgroup, err = c.app.cgroupManager(c.id, c.spec.Linux.CgroupsPath); err != nil {
		return err
	}
	if err := c.compile(); err != nil {
		return err
	}
	_, err = fmt.Fprint(c.app.cfg.Stdout, c.plan.Text())
	return err
}

// makeCgroup makes the cgroup and adds its removal to undo, which adds to failure.
func (c *creation) makeCgroup(undo *cleanup.Stack, failure *error) error {
	m, err := c.app.cgroupManager(c.id, c.spec.Linux.CgroupsPath)
	if err != nil {
		return err
	}
	if err := c.app.store.Intend(c.id, state.Cgroup{Paths: m.Paths()}); err != nil {
		return err
	}
	if err := m.Create(c.spec.Linux.Resources); err != nil {
		return err
	}
	pids, err := m.Pids()
	if err != nil {
		return err
	}
	// A scope of systemd's is made when the process joins it.
	if frozen, err := m.Frozen(); (err != nil && !errors.Is(err, fs.ErrNotExist)) || frozen {
		return errors.Join(err, fmt.Errorf("container's cgroup unexpectedly frozen: %w", errdefs.ErrFailedPrecondition))
	}
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d process(es) found: %w", len(pids), errdefs.ErrFailedPrecondition)
	}
	undo.Add(func() { *failure = errors.Join(*failure, m.Remove()) })
	c.cgroup = m
	return nil
}

// start runs the plan.
func (c *creation) start(ctx context.Context) (*parent.Child, error) {
	c.prepareState()
	fifo := c.app.store.FIFO(c.id)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: fifo, Err: err}
	}
	args := parent.Args{
		Plan: c.plan, Unprivileged: c.app.unprivileged(), Cgroup: c.cgroup, OOMScoreAdj: c.spec.Process.OOMScoreAdj,
		FIFO: fifo, Preserve: c.flags.preserveFDs + listenFDs(), Foreground: c.run,
		Callbacks: parent.Callbacks{Step: c.step},
	}
	if c.filter != nil {
		args.Filter = c.filter.Insns
	}
	if l := c.spec.Linux; c.plan.Flags&unix.CLONE_NEWUSER != 0 {
		args.Maps = &userns.Maps{UID: l.UIDMappings, GID: l.GIDMappings}
	}
	if c.term != nil {
		args.ConsoleSocket = c.term.childEnd
	}
	if c.flags.consoleSocket != "" {
		sock, err := fdpass.Connect(c.flags.consoleSocket)
		if err != nil {
			return nil, err
		}
		defer sock.Close()
		args.ConsoleSocket = sock
	}
	args.Callbacks.State = func(pid int) ([]byte, error) { return c.hookState(pid, state.Created) }
	args.Callbacks.Hooks = func(pid int) error {
		data, err := c.hookState(pid, state.Creating)
		if err != nil {
			return err
		}
		h := c.spec.Hooks
		return errors.Join(hooks.Run("prestart", h.Prestart, data), hooks.Run("createRuntime", h.CreateRuntime, data)) //nolint:staticcheck // deprecated, still used
	}
	args.Callbacks.Listener = func(pid int, fd *os.File) error {
		return sendListener(c.st, pid, c.listener.ListenerPath, c.listener.ListenerMetadata, fd)
	}
	return parent.Run(ctx, args)
}

func sendListener(st *state.State, pid int, path, metadata string, fd *os.File) error {
	return seccomp.Send(path, specs.ContainerProcessState{
		Version: specVersion, Pid: pid, Metadata: metadata,
		State: specs.State{Version: specVersion, ID: st.ID, Status: specs.StateCreating, Pid: st.PID, Bundle: st.Bundle, Annotations: st.Annotations},
	}, fd)
}

// prepareState fills in what is known before the child exists.
func (c *creation) prepareState() {
	s := c.spec
	root := s.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(c.bundle, root)
	}
	c.st.Bundle, c.st.Rootfs, c.st.Created, c.st.Annotations = c.bundle, root, time.Now().UTC(), s.Annotations
	c.st.Owner = strconv.Itoa(os.Geteuid())
	for _, n := range s.Linux.Namespaces {
		c.st.Config.Namespaces = append(c.st.Config.Namespaces, n.Type)
	}
	c.st.Config.NoNewKeyring = c.flags.noNewKeyring
	if caps := s.Process.Capabilities; caps != nil {
		c.st.Config.Bounding = caps.Bounding
	}
	c.st.Config.ExecAffinity, c.st.Config.Personality = s.Process.ExecCPUAffinity, s.Linux.Personality
	if h := s.Hooks; h != nil && len(h.Poststart)+len(h.Poststop) > 0 {
		c.st.Config.Hooks = &specs.Hooks{Poststart: h.Poststart, Poststop: h.Poststop}
	}
	if c.filter != nil {
		c.st.Config.Seccomp = &state.Seccomp{Flags: c.filter.Flags, Notify: c.filter.Notify}
		if c.listener != nil {
			c.st.Config.Seccomp.ListenerPath, c.st.Config.Seccomp.ListenerMetadata = c.listener.ListenerPath, c.listener.ListenerMetadata
		}
	}
	c.st.Cgroup = state.Cgroup{Systemd: c.app.glob.systemdCgroup, SpecPath: s.Linux.CgroupsPath}
}

func (c *creation) hookState(pid int, status string) ([]byte, error) {
	return json.Marshal(specs.State{
		Version: specVersion, ID: c.id, Status: specs.ContainerState(status), Pid: pid, Bundle: c.bundle, Annotations: c.spec.Annotations,
	})
}

// finish stores the state of a created container and tells the caller its pid.
func (c *creation) finish(child *parent.Child) error {
	c.st.PID = child.PID
	var err error
	if c.st.StartTicks, _, err = state.StartTicks(child.PID); err != nil {
		return err
	}
	c.st.Cgroup.Paths = c.cgroup.Paths()
	if c.filter != nil {
		if err := c.keepFilter(); err != nil {
			return err
		}
	}
	if err := c.app.store.Save(c.st); err != nil {
		return err
	}
	if c.flags.pidfdSocket != "" {
		if err := sendPidfd(c.flags.pidfdSocket, child.Pidfd); err != nil {
			return err
		}
	}
	// Point of no return: callers that watch for the pid file see a whole container.
	return writePID(c.flags.pidFile, child.PID)
}

func (c *creation) keepFilter() error {
	to := filepath.Join(c.app.store.Dir(c.id), state.FilterFile)
	if c.filter.Path != "" && os.Link(c.filter.Path, to) == nil {
		return nil
	}
	return os.WriteFile(to, seccomp.Encode(nil, &c.filter.Program), 0o600)
}

func sendPidfd(path string, pidfd *os.File) error {
	sock, err := fdpass.Connect(path)
	if err != nil {
		return err
	}
	return errors.Join(fdpass.Send(sock, []byte("pidfd"), pidfd), sock.Close())
}

func writePID(path string, pid int) error {
	if path == "" {
		return nil
	}
	return atomicfile.Write(path, []byte(strconv.Itoa(pid)), 0o644, atomicfile.Volatile)
}

// listenFDs is the number of descriptors that socket activation hands on.
func listenFDs() int {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > 1<<16 {
		return 0
	}
	return n
}

// needsSeal reports whether somebody in the container could look at this process
// through /proc, or the child will execute the program itself.
func needsSeal(s *specs.Spec) bool {
	p := s.Process
	if p == nil {
		return false
	}
	if p.ApparmorProfile != "" || p.SelinuxLabel != "" {
		return true
	}
	if s.Hooks != nil && len(s.Hooks.StartContainer) > 0 {
		return true
	}
	shared := true // the pid namespace, with others
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			return false
		}
		if n.Type == specs.PIDNamespace && n.Path == "" {
			shared = false
		}
	}
	return shared && p.Capabilities != nil && hasPtrace(p.Capabilities.Bounding)
}

func hasPtrace(bounding []string) bool {
	for _, c := range bounding {
		if strings.EqualFold(c, "CAP_SYS_PTRACE") {
			return true
		}
	}
	return false
}
