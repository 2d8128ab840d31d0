package shims

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/linux/mount"
)

// How long a shim may take. Source: containerd's own limits, so that its shims fit.
const (
	startTimeout  = 30 * time.Second
	loadTimeout   = 5 * time.Second
	deleteTimeout = 10 * time.Second
	infoTimeout   = 10 * time.Second
)

// Config says where shims live and whom they report to.
type Config struct {
	State          string            // directory of bundles; gone after a reboot
	Root           string            // directory of work directories
	Address        string            // our gRPC socket; the ttrpc one is ADDRESS.ttrpc
	Executable     string            // our own binary
	Version        string            // ours
	DefaultRuntime string            // empty means DefaultRuntime
	Runtimes       map[string]string // runtime name → another name or an absolute path
	OCIRuntime     string            // for our shim; empty means "ocirun" beside Executable
	RuntimeRoot    string            // where the OCI runtime keeps its state; empty: its own default
	Debug          bool
}

// Launcher starts and finds shims. Its methods are safe for concurrent use.
type Launcher struct {
	cfg   Config
	users users

	mu        sync.Mutex
	protocols map[string]startProtocol // by path of the binary
}

// New returns a launcher. It makes no file.
func New(cfg Config) *Launcher {
	if cfg.DefaultRuntime == "" {
		cfg.DefaultRuntime = DefaultRuntime
	}
	return &Launcher{cfg: cfg, users: users{n: map[string]int{}}, protocols: map[string]startProtocol{}}
}

// Launch starts the shim of a runtime for a bundle, or finds the one that serves the
// bundle's group already, and connects to it. After an error no shim of this bundle is
// left. Errors: as of Resolve, and ErrUnavailable if the shim does not come up.
func (l *Launcher) Launch(ctx context.Context, b *Bundle, runtime string, opts *anypb.Any) (_ *Shim, err error) {
	path, err := l.Resolve(runtime)
	if err != nil {
		return nil, err
	}
	if opts, err = l.withRuntime(path, opts); err != nil {
		return nil, err
	}
	// Before the start: recovery must know whom to ask if we die in the middle.
	if err := os.WriteFile(filepath.Join(b.Path, fileBinary), []byte(path), 0o600); err != nil {
		return nil, fmt.Errorf("launch shim: %w", err)
	}
	log, err := openLog(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("launch shim: %w", err)
	}
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(func() { _ = log.Close() })
	boot, err := l.start(ctx, b, path, opts)
	if err != nil {
		l.killOf(b) // one that was started, by a start that could not say so any more
		l.removeSocket(b)
		return nil, fmt.Errorf("launch shim %q: %w", path, err)
	}
	failpoint.Pass("shims/launch/started")
	s, err := l.dial(ctx, b, boot)
	if err != nil {
		if l.users.count(strings.TrimPrefix(boot.Address, "unix://")) == 0 { // not a pod's shim, which others use
			l.killOf(b)
		}
		return nil, fmt.Errorf("launch shim %q: %w", path, err)
	}
	s.binary, s.log, s.Options = path, log, opts
	undo.Add(func() {
		cctx, cancel := cleanup.Context(ctx)
		defer cancel()
		s.Shutdown(cctx)
	})
	failpoint.Pass("shims/launch/dialled")
	if err := b.writeBootstrap(boot); err != nil {
		return nil, fmt.Errorf("launch shim: %w", err)
	}
	undo.Release()
	return s, nil
}

// start runs "SHIM start" in the protocol that the binary is known to understand.
func (l *Launcher) start(ctx context.Context, b *Bundle, path string, opts *anypb.Any) (bootstrap, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	protocol := l.protocol(path)
	out, err := l.tryStart(ctx, protocol, b, path, opts)
	if err != nil && protocol == protocolUnknown {
		var c *complaint
		if errors.As(err, &c) && wantsLegacy(c.text) {
			protocol = protocolLegacy
			out, err = l.tryStart(ctx, protocol, b, path, opts)
		}
	}
	if err != nil {
		return bootstrap{}, err
	}
	if protocol == protocolUnknown {
		protocol = protocolBootstrap
	}
	l.mu.Lock()
	l.protocols[path] = protocol
	l.mu.Unlock()
	return parseReply(out)
}

func (l *Launcher) protocol(path string) startProtocol {
	base := filepath.Base(path)
	if strings.Contains(base, "shim-runc-v1") || strings.Contains(base, "shim-runhcs-v1") {
		return protocolLegacy
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.protocols[path]
}

func (l *Launcher) tryStart(ctx context.Context, p startProtocol, b *Bundle, path string, opts *anypb.Any) ([]byte, error) {
	input, err := l.startInput(p, b, opts)
	if err != nil {
		return nil, err
	}
	return l.run(ctx, b, path, input, "start")
}

// complaint is what a shim said before it failed.
type complaint struct {
	err  error
	text string
}

func (c *complaint) Error() string {
	if c.text == "" {
		return c.err.Error()
	}
	return fmt.Sprintf("%v: %s", c.err, c.text)
}

func (c *complaint) Unwrap() []error { return []error{c.err, errdefs.ErrUnavailable} }

// run runs the shim binary with a verb in the bundle and returns its stdout. Its stderr
// is part of the error, and stays out of the answer.
func (l *Launcher) run(ctx context.Context, b *Bundle, path string, input []byte, verb string) ([]byte, error) {
	args := []string{"-namespace", b.Namespace, "-address", l.cfg.Address, "-publish-binary", l.cfg.Executable, "-id", b.ID}
	if verb == "delete" {
		args = append(args, "-bundle", b.Path)
	}
	if l.cfg.Debug {
		args = append(args, "-debug")
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, append(args, verb)...)
	cmd.Dir = b.Path
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(),
		"GOMAXPROCS=2", "MAX_SHIM_VERSION=2", "TTRPC_ADDRESS="+l.cfg.Address+".ttrpc", "GRPC_ADDRESS="+l.cfg.Address, "NAMESPACE="+b.Namespace)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = time.Second // a daemonised child may have inherited the pipes
	err := cmd.Run()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		text := strings.TrimSpace(stderr.String() + "\n" + stdout.String())
		return nil, &complaint{err: fmt.Errorf("%s %s: %w", filepath.Base(path), verb, err), text: string(truncate([]byte(text)))}
	}
	return stdout.Bytes(), nil
}

// Load finds the shim of a bundle that an earlier daemon left. Errors: ErrNotFound if
// it is dead, or the error of ctx, which Load bounds to five seconds.
func (l *Launcher) Load(ctx context.Context, b *Bundle) (*Shim, error) {
	dctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	boot, err := b.readBootstrap()
	path, _ := b.ReadFile(fileBinary)
	if errors.Is(err, os.ErrNotExist) && len(path) > 0 {
		boot, err = l.start(dctx, b, string(path), nil) // answers with the running shim's address
	}
	if err != nil {
		return nil, fmt.Errorf("load shim: %v: %w", err, errdefs.ErrNotFound) //nolint:errorlint // whatever it was, there is no shim
	}
	log, err := openLog(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("load shim: %w", err)
	}
	s, err := l.dial(dctx, b, boot)
	if err != nil {
		_ = log.Close()
		return nil, fmt.Errorf("load shim: %w", err)
	}
	s.binary, s.log = string(path), log
	if _, err := s.Connect(dctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("load shim: %w", err)
	}
	return s, nil
}

// How often Bury runs a shim's delete, and how long it waits after the first try; then
// twice as long, and so on.
const (
	buryTries = 4
	buryWait  = 50 * time.Millisecond
)

// Bury runs the shim binary's "delete" for a bundle whose shim is dead: it kills what is
// left of the container and unmounts. The exit is 137, now, if the binary cannot say
// better. A delete that fails, or is killed, is tried again. An error means that leftovers
// may be there: then the bundle must stay, for only it says what they are.
func (l *Launcher) Bury(ctx context.Context, b *Bundle) (Exit, error) {
	defer l.removeSocket(b)
	wait := buryWait
	for try := 1; ; try++ {
		exit, err := l.bury(ctx, b)
		if err == nil || try == buryTries || ctx.Err() != nil {
			return exit, err
		}
		ctxlog.From(ctx).Debug("burial is tried again", ctxlog.TaskID, b.ID, ctxlog.Error, err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait *= 2
	}
}

func (l *Launcher) bury(ctx context.Context, b *Bundle) (Exit, error) {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	exit := Exit{Status: 137, At: time.Now()}
	path, err := b.ReadFile(fileBinary)
	if err != nil || len(path) == 0 {
		// Without a binary no shim was started: there are only files and mounts. The file is
		// empty if a supervisor died between making and writing it.
		return exit, mount.Unmount(b.Rootfs())
	}
	out, err := l.run(ctx, b, string(path), nil, "delete")
	if err != nil {
		return exit, fmt.Errorf("bury shim: %w", errors.Join(err, mount.Unmount(b.Rootfs())))
	}
	failpoint.Pass("shims/bury/deleted")
	var resp taskapi.DeleteResponse
	if err := proto.Unmarshal(out, &resp); err != nil {
		ctxlog.From(ctx).Warn("shim's delete printed nonsense", ctxlog.TaskID, b.ID, ctxlog.Error, err)
		return exit, nil
	}
	if resp.ExitedAt.IsValid() && resp.ExitedAt.AsTime().Unix() > 0 {
		exit.At = resp.ExitedAt.AsTime()
	}
	exit.PID = int(resp.Pid)
	if resp.ExitStatus != 0 {
		exit.Status = resp.ExitStatus
	}
	return exit, nil
}

// Info asks the shim of a runtime what it can do: "SHIM -info".
func (l *Launcher) Info(ctx context.Context, runtime string, opts *anypb.Any) (*types.RuntimeInfo, error) {
	path, err := l.Resolve(runtime)
	if err != nil {
		return nil, err
	}
	if opts, err = l.withRuntime(path, opts); err != nil {
		return nil, err
	}
	var input []byte
	if opts != nil {
		if input, err = proto.Marshal(opts); err != nil {
			return nil, fmt.Errorf("encode runtime options: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-info")
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("ask runtime %q for its features: %w: %w", runtime, err, errdefs.ErrNotImplemented)
	}
	info := &types.RuntimeInfo{}
	if err := proto.Unmarshal(out, info); err != nil {
		return nil, fmt.Errorf("decode features of runtime %q: %w", runtime, err)
	}
	return info, nil
}
