package shims

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// DefaultRuntime is what a container without a runtime gets.
const DefaultRuntime = "io.containerd.strata.v2"

// runcRuntime is what most clients ask for. Where the stock shim is not installed ours
// serves it: the contract is the same.
const runcRuntime = "io.containerd.runc.v2"

const ourShim = "containerd-shim-strata-v2"

// Resolve returns the path of the shim binary for a runtime's name. An absolute path is
// taken as it is; io.containerd.NAME.VERSION is containerd-shim-NAME-VERSION, looked for
// in $PATH and beside the daemon's own executable (ours the other way round, so that a
// build runs what belongs to it). Errors: ErrInvalidArgument for a malformed name,
// ErrNotFound for a binary that is not installed.
func (l *Launcher) Resolve(runtime string) (string, error) {
	if runtime == "" {
		runtime = l.cfg.DefaultRuntime
	}
	if path, ok := l.cfg.Runtimes[runtime]; ok {
		runtime = path
	}
	if filepath.IsAbs(runtime) {
		if _, err := os.Stat(runtime); err != nil {
			return "", fmt.Errorf("runtime %q: %w: %w", runtime, err, errdefs.ErrNotFound)
		}
		return runtime, nil
	}
	parts := strings.Split(runtime, ".")
	if strings.Contains(runtime, "/") || len(parts) < 2 || parts[len(parts)-1] == "" || parts[len(parts)-2] == "" {
		return "", fmt.Errorf("runtime %q is neither a name like %q nor an absolute path: %w", runtime, DefaultRuntime, errdefs.ErrInvalidArgument)
	}
	binary := "containerd-shim-" + parts[len(parts)-2] + "-" + parts[len(parts)-1]
	path, err := l.find(binary)
	if err != nil && runtime == runcRuntime {
		path, err = l.find(ourShim)
	}
	if err != nil {
		return "", fmt.Errorf("runtime %q: binary %q is neither in PATH nor in %q: %w", runtime, binary, l.exeDir(), errdefs.ErrNotFound)
	}
	return path, nil
}

func (l *Launcher) exeDir() string { return filepath.Dir(l.cfg.Executable) }

func (l *Launcher) find(binary string) (string, error) {
	beside := filepath.Join(l.exeDir(), binary)
	if binary == ourShim && isExecutable(beside) {
		return beside, nil
	}
	path, err := exec.LookPath(binary)
	if err == nil {
		return filepath.Abs(path)
	}
	if isExecutable(beside) {
		return beside, nil
	}
	return "", err
}

func isExecutable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

const typeRuncOptions = "containerd.runc.v1.Options"

// withRuntime fills in what the caller left to us: our shim drives the ocirun beside the
// daemon, and so does the stock one if there is no runc; and an instance with a directory
// of its own for the runtime's state uses that, so that two instances may have containers
// of the same name.
func (l *Launcher) withRuntime(shimPath string, opts *anypb.Any) (*anypb.Any, error) {
	ours := filepath.Base(shimPath) == ourShim
	if !ours && filepath.Base(shimPath) != "containerd-shim-runc-v2" {
		return opts, nil
	}
	if url := opts.GetTypeUrl(); url != "" && strings.TrimPrefix(url, "type.googleapis.com/") != typeRuncOptions {
		return opts, nil
	}
	var o runcoptions.Options
	if opts != nil {
		if err := proto.Unmarshal(opts.Value, &o); err != nil {
			return nil, fmt.Errorf("decode runtime options: %w", errors.Join(err, errdefs.ErrInvalidArgument))
		}
	}
	binary, root := l.binaryFor(ours), l.cfg.RuntimeRoot
	if o.BinaryName != "" {
		binary = o.BinaryName
	}
	if o.Root != "" {
		root = o.Root
	}
	if binary == o.BinaryName && root == o.Root {
		return opts, nil
	}
	o.BinaryName, o.Root = binary, root
	return encodeOptions(&o)
}

// binaryFor returns the OCI runtime for a shim that was not told which; "" leaves it to
// the shim's own search.
func (l *Launcher) binaryFor(ours bool) string {
	if !ours {
		if _, err := exec.LookPath("runc"); err == nil {
			return ""
		}
	}
	if l.cfg.OCIRuntime != "" {
		return l.cfg.OCIRuntime
	}
	if beside := filepath.Join(l.exeDir(), "ocirun"); isExecutable(beside) {
		return beside
	}
	return ""
}

func encodeOptions(o *runcoptions.Options) (*anypb.Any, error) {
	value, err := proto.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode runtime options: %w", err)
	}
	return &anypb.Any{TypeUrl: typeRuncOptions, Value: value}, nil
}
