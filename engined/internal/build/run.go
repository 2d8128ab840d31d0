package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
	"strata/engined/internal/containers"
	"strata/engined/internal/networks"
	"strata/engined/internal/spec"
	"strata/engined/internal/supervisor"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
	"strata/pkg/linux/archive"
	"strata/pkg/linux/mount"
	"strata/pkg/shimio"
	"strata/pkg/stdcopy"
)

// run runs the command of w in a container on the active snapshot.
func (b *builder) run(ctx context.Context, w *work, rootfs []mount.Mount) error {
	r := w.v.Run
	if err := b.checkGranted(r); err != nil {
		return err
	}
	if err := b.s.canRun(ctx, r.Platform); err != nil {
		return err
	}
	mounts, env, err := b.runMounts(ctx, w)
	if err != nil {
		return err
	}
	var user spec.User
	var left stubs
	err = mount.WithTemp(ctx, rootfs, func(root string) error {
		if user, err = userOf(root, r.User); err != nil {
			return err
		}
		if r.Dir != "" {
			if _, err := files.Mkdir(ctx, root, r.Dir, nil); err != nil {
				return err
			}
		}
		left, err = findStubs(root, stubTargets(mounts))
		return err
	})
	if err != nil {
		return err
	}
	id := identifiers.New()
	b.o.Started(w.v, id)
	c := command{b: b, v: w.v, id: id, user: user, mounts: mounts, env: env, rootfs: rootfs, args: r.Args}
	c.streams = Streams{Stdout: outputWriter{&c, false}, Stderr: outputWriter{&c, true}}
	if err := c.run(ctx); err != nil {
		return b.failed(ctx, w, &c, err)
	}
	return mount.WithTemp(ctx, rootfs, left.remove)
}

// command is the container of one RUN, or of a shell in its place.
type command struct {
	b       *builder
	v       *dockerfile.Vertex
	id      string
	user    spec.User
	mounts  []spec.Mount
	env     []string // of secrets
	rootfs  []mount.Mount
	args    []string
	streams Streams
}

// Streams are those of a command.
type Streams struct {
	Stdin          io.Reader // nil for none
	Stdout, Stderr io.Writer // with a terminal, all goes to Stdout
	Terminal       bool
	Resize         <-chan Size // nil for none
}

// Size is that of a terminal.
type Size struct{ Width, Height int }

// run runs the container and takes it away, however it ended. It returns a *CommandError
// for another exit code than 0.
func (c *command) run(ctx context.Context) (err error) {
	s := c.b.s
	defer s.hold(c.id)()
	var undo cleanup.Stack
	defer undo.Clean()
	dir := filepath.Join(s.runDir(), "c"+c.id[:16])
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("make directory of container: %w", err)
	}
	undo.Add(func() { _ = os.RemoveAll(dir) }) // the next start removes it, too
	net, err := c.join(ctx, dir, &undo)
	if err != nil {
		return err
	}
	sp, err := spec.Build(c.request(net))
	if err != nil {
		return err
	}
	if err := s.sup.CreateContainer(ctx, supervisor.Container{
		ID: c.id, Labels: map[string]string{labelBuild: "true"}, Runtime: s.cfg.Runtime, Options: s.cfg.Options, Spec: sp, Snapshotter: s.images.Snapshotter(),
	}); err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	undo.Add(func() {
		if err := s.discard(ctx, c.id); err != nil {
			ctxlog.From(ctx).Warn("container of a build was not removed; the next start of the engine will", ctxlog.ContainerID, c.id, ctxlog.Error, err)
		}
	})
	code, err := c.execute(ctx, filepath.Join(dir, "io.sock"))
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	if code != 0 {
		return &CommandError{Command: strings.Join(c.args, " "), Code: code}
	}
	return nil
}

// execute starts the command, passes its output on and returns its exit code.
func (c *command) execute(ctx context.Context, socket string) (int, error) {
	s := c.b.s
	uri := shimio.URI{Socket: socket, Terminal: c.streams.Terminal}
	if c.streams.Stdin != nil {
		uri.Stdin = shimio.StdinOnce
	}
	stdout := uri.String()
	if s.cfg.Runtime != shimRuntime {
		stdout = uri.Binary(s.cfg.ShimPath)
		if uri.Stdin != "" {
			return 0, fmt.Errorf("input for a command under a foreign shim: %w", errdefs.ErrNotImplemented)
		}
	}
	if _, err := s.sup.CreateTask(ctx, supervisor.TaskRequest{ContainerID: c.id, Rootfs: c.rootfs, Stdout: stdout, Terminal: c.streams.Terminal, Options: s.cfg.Options}); err != nil {
		return 0, fmt.Errorf("create task: %w", err)
	}
	conn, err := containers.DialAttach(ctx, socket, shimio.Hello{Stdin: c.streams.Stdin != nil, Stdout: true, Stderr: true})
	if err != nil {
		return 0, fmt.Errorf("attach to command: %w", err)
	}
	var output sync.WaitGroup
	defer output.Wait()
	defer func() { _ = conn.Close() }() // ends the reader
	output.Go(func() { c.copyOutput(ctx, conn) })
	if c.streams.Stdin != nil {
		go c.copyInput(conn)
	}
	type result struct {
		exit supervisor.ExitStatus
		err  error
	}
	exited := make(chan result, 1) // one result
	wctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		st, err := s.sup.WaitTask(wctx, c.id)
		exited <- result{st, err}
	}()
	if _, err := s.sup.StartTask(ctx, c.id, ""); err != nil {
		return 0, fmt.Errorf("start task: %w", err)
	}
	for {
		select {
		case r := <-exited:
			if r.err != nil {
				return 0, fmt.Errorf("wait for command: %w", r.err)
			}
			// The init process is gone, and with its PID namespace all others: the output ends.
			output.Wait()
			return r.exit.Code, nil
		case size, ok := <-c.streams.Resize:
			if !ok {
				c.streams.Resize = nil
			} else if err := s.sup.ResizeTask(ctx, c.id, "", size.Width, size.Height); err != nil {
				ctxlog.From(ctx).Debug("terminal of a build was not resized", ctxlog.ContainerID, c.id, ctxlog.Error, err)
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// shimRuntime is the runtime whose shim holds the streams itself.
const shimRuntime = "io.containerd.strata.v2"

func (c *command) copyOutput(ctx context.Context, conn net.Conn) {
	var err error
	if c.streams.Terminal {
		_, err = io.Copy(c.streams.Stdout, conn)
	} else {
		_, err = stdcopy.Demux(c.streams.Stdout, c.streams.Stderr, conn)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
		ctxlog.From(ctx).Warn("output of a command broke off", ctxlog.ContainerID, c.id, ctxlog.Error, err)
	}
}

// copyInput passes stdin on until it ends or the command does. Nobody waits for it: a Read
// that has begun cannot be ended here.
func (c *command) copyInput(conn net.Conn) {
	_, _ = io.Copy(conn, c.streams.Stdin) // an end, however it came
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the command may be gone
	}
}

// outputWriter tells the observer what a command writes.
type outputWriter struct {
	c      *command
	stderr bool
}

func (w outputWriter) Write(p []byte) (int, error) {
	w.c.b.o.Output(w.c.v, bytes.Clone(p), w.stderr)
	return len(p), nil
}

// join gives the command its network.
func (c *command) join(ctx context.Context, dir string, undo *cleanup.Stack) (spec.Network, error) {
	mode := c.v.Run.Network
	if mode == "default" {
		mode = c.b.r.Network
	}
	r := networks.Request{ContainerID: c.id, Hostname: c.b.hostname(), Mode: networks.NetworkBridge, Dir: dir, ExtraHosts: c.b.r.ExtraHosts}
	switch mode {
	case "", "default", networks.NetworkBridge:
	case networks.NetworkHost, networks.NetworkNone:
		r.Mode = mode
	default:
		if strings.HasPrefix(mode, "container:") {
			return spec.Network{}, fmt.Errorf("--network=%s for a build: %w", mode, errdefs.ErrNotImplemented)
		}
		r.Endpoints = []networks.EndpointRequest{{Network: mode}}
	}
	undo.Add(func() {
		ctx, done := cleanup.Context(ctx)
		defer done()
		if err := c.b.s.nets.Leave(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
			ctxlog.From(ctx).Warn("network of a build was not freed; the next start of the engine will", ctxlog.ContainerID, c.id, ctxlog.Error, err)
		}
	})
	box, err := c.b.s.nets.Join(ctx, r)
	if err != nil {
		return spec.Network{}, err
	}
	return spec.Network{
		NetnsPath: box.NetnsPath, Host: r.Mode == networks.NetworkHost, Hostname: c.b.hostname(),
		HostnamePath: filepath.Join(dir, "hostname"), HostsPath: filepath.Join(dir, "hosts"), ResolvConfPath: filepath.Join(dir, "resolv.conf"),
	}, nil
}

// defaultHostname of every command, so that none finds its way into a result.
const defaultHostname = "buildkitsandbox"

func (b *builder) hostname() string {
	if b.r.Hostname == "" {
		return defaultHostname
	}
	return b.r.Hostname
}

// request is what the command's spec is made of: a container with docker's defaults.
func (c *command) request(net spec.Network) spec.Request {
	s, run := c.b.s, c.v.Run
	env := slices.Clone(run.Env)
	env = append(env, c.env...)
	host := &container.HostConfig{
		Resources: c.b.r.Resources, ShmSize: c.b.r.ShmSize, CgroupnsMode: s.cfg.CgroupnsMode, IpcMode: "private", NetworkMode: "bridge",
		MaskedPaths: spec.DefaultMaskedPaths(), ReadonlyPaths: spec.DefaultReadonlyPaths(), Privileged: run.Insecure,
	}
	if host.ShmSize == 0 {
		host.ShmSize = s.cfg.ShmSize
	}
	if net.Host {
		host.NetworkMode = "host"
	}
	if run.Insecure {
		host.MaskedPaths, host.ReadonlyPaths = nil, nil
	} else if s.cfg.Seccomp != "" {
		host.SecurityOpt = []string{"seccomp=" + s.cfg.Seccomp}
	}
	return spec.Request{
		ID: c.id, User: c.user, Mounts: c.mounts, Net: net, Cgroup: s.cfg.Cgroup, Ulimits: s.cfg.Ulimits, Host: host,
		Config: &container.Config{Hostname: c.b.hostname(), Env: env, Cmd: c.args, Tty: c.streams.Terminal, OpenStdin: c.streams.Stdin != nil, WorkingDir: run.Dir, User: run.User},
	}
}

// discard kills and removes a container of a build.
func (s *Service) discard(ctx context.Context, id string) error {
	ctx, done := cleanup.Context(ctx)
	defer done()
	err := s.sup.KillTask(ctx, id, "", int(syscall.SIGKILL), true)
	if err == nil {
		if _, werr := s.sup.WaitTask(ctx, id); werr != nil && !errdefs.IsNotFound(werr) {
			err = werr
		}
	}
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		err = nil
	}
	if _, derr := s.sup.DeleteTask(ctx, id); derr != nil && !errdefs.IsNotFound(derr) {
		err = errors.Join(err, derr)
	}
	if derr := s.sup.DeleteContainer(ctx, id); derr != nil && !errdefs.IsNotFound(derr) {
		err = errors.Join(err, derr)
	}
	return err
}

// maxUserFile bounds /etc/passwd and /etc/group, in bytes.
const maxUserFile = 4 << 20

// userOf looks a user up in a root filesystem.
func userOf(root, user string) (spec.User, error) {
	t, err := files.OpenRoot(root)
	if err != nil {
		return spec.User{}, err
	}
	defer func() { _ = t.Close() }() // only a descriptor
	passwd, err := userFile(t, "/etc/passwd")
	if err != nil {
		return spec.User{}, err
	}
	group, err := userFile(t, "/etc/group")
	if err != nil {
		return spec.User{}, err
	}
	return spec.ResolveUser(user, nil, passwd, group)
}

func userFile(t *files.Root, name string) ([]byte, error) {
	at, n, err := files.Resolve(t, name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !n.Mode.IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := t.Open(at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, maxUserFile))
}

// ownerOf is userOf for files; "" is nobody's wish.
func ownerOf(root, user string) (*archive.Owner, error) {
	if user == "" {
		return nil, nil
	}
	name, group, hasGroup := strings.Cut(user, ":")
	if name, group = numberOfRoot(name), numberOfRoot(group); hasGroup {
		group = ":" + group
	}
	u, err := userOf(root, name+group)
	if err != nil {
		return nil, fmt.Errorf("owner %q: %w", user, err)
	}
	// A number without a group is both, as BuildKit has it.
	if _, numeric := number(name); numeric && !hasGroup {
		u.GID, _ = number(name)
	}
	return &archive.Owner{UID: u.UID, GID: u.GID}, nil
}

// numberOfRoot is a name of --chown; root is known where nobody is, as BuildKit has it.
func numberOfRoot(name string) string {
	if name == "root" {
		return "0"
	}
	return name
}

func number(s string) (int, bool) {
	n := 0
	for _, r := range s {
		if r < '0' || r > '9' || n > 1<<30 {
			return 0, false
		}
		n = n*10 + int(r-'0')
	}
	return n, s != ""
}
