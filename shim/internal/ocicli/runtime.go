package ocicli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"

	"strata/pkg/linux/memfd"
	"strata/shim/internal/reaper"
)

// DefaultBinary is the runtime of a task that names none.
const DefaultBinary = "ocirun"

// maxOutput bounds what is kept of a runtime's output and log, in bytes.
const maxOutput = 4 << 20

// Runtime is an OCI runtime with its state directory. Its methods are safe for
// concurrent use. They return after the runtime has ended; a done context kills it.
type Runtime struct {
	Binary        string // absolute path
	Root          string // --root
	SystemdCgroup bool
	// LogDir holds the runtime's log files, one for each invocation, removed after it.
	LogDir string
	Reaper *reaper.Reaper

	serial atomic.Uint64
}

// Find returns the absolute path of a runtime. An empty name is [DefaultBinary], looked
// up beside the shim's own executable first. The error is of class ErrNotFound.
func Find(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	dirs := filepath.SplitList(os.Getenv("PATH"))
	if name == "" {
		name = DefaultBinary
		if self, err := os.Executable(); err == nil {
			dirs = append([]string{filepath.Dir(self)}, dirs...)
		}
	}
	if !strings.Contains(name, "/") {
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && filepath.IsAbs(path) {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("oci runtime %q in %s: %w", name, strings.Join(dirs, ":"), errdefs.ErrNotFound)
}

// Streams are the descriptors 0, 1 and 2 of an invocation.
type Streams [3]uintptr

// Error is what a runtime said when it failed.
type Error struct {
	Verb string
	Text string
	Code int // exit code of the runtime
}

func (e *Error) Error() string {
	return fmt.Sprintf("runtime %s: %s", e.Verb, e.Text)
}

// Unwrap returns the error class that the text means, or nil. The words are those of
// runc, crun and ocirun.
func (e *Error) Unwrap() error {
	text := strings.ToLower(e.Text)
	switch {
	case strings.Contains(text, "does not exist") && strings.Contains(text, "container"),
		strings.Contains(text, "container not found"),
		strings.Contains(text, "process already finished"),
		strings.Contains(text, "no such process"),
		strings.Contains(text, "container not running"):
		return errdefs.ErrNotFound
	case strings.Contains(text, "unknown command"), strings.Contains(text, "not implemented"):
		return errdefs.ErrNotImplemented
	}
	return nil
}

// run executes one verb with its arguments.
func (r *Runtime) run(ctx context.Context, streams Streams, verb string, args ...string) error {
	log := filepath.Join(r.LogDir, "runtime-"+verb+"-"+strconv.FormatUint(r.serial.Add(1), 10)+".json")
	argv := make([]string, 0, 8+len(args))
	argv = append(argv, r.Binary, "--root", r.Root, "--log", log, "--log-format", "json")
	if r.SystemdCgroup {
		argv = append(argv, "--systemd-cgroup")
	}
	argv = append(append(argv, verb), args...)

	ended := make(chan reaper.Exit, 1) // one exit
	pid, err := r.Reaper.Start(r.Binary, argv, &syscall.ProcAttr{
		Dir: r.LogDir, Env: os.Environ(), Files: streams[:],
		Sys: &syscall.SysProcAttr{Setpgid: true},
	}, func(e reaper.Exit) { ended <- e })
	if err != nil {
		return fmt.Errorf("start runtime: %w", err)
	}
	defer os.Remove(log)
	var exit reaper.Exit
	select {
	case exit = <-ended:
	case <-ctx.Done():
		_, _ = r.Reaper.Signal(pid, syscall.SIGKILL) // ended already: so much the better
		<-ended
		return fmt.Errorf("runtime %s: %w", verb, context.Cause(ctx))
	}
	if exit.Code == 0 {
		return nil
	}
	return &Error{Verb: verb, Text: lastError(log, exit.Code), Code: exit.Code}
}

// lastError returns the last error in a runtime's JSON log.
func lastError(path string, code int) string {
	text := fmt.Sprintf("exit code %d", code)
	f, err := os.Open(path)
	if err != nil {
		return text
	}
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, maxOutput))
	for {
		var entry struct{ Level, Msg string }
		if err := dec.Decode(&entry); err != nil {
			return text
		}
		if entry.Level == "error" || entry.Level == "fatal" {
			text = entry.Msg
		}
	}
}

// captured runs a verb whose output is wanted and which gets input on stdin. The output
// goes to a file in memory, not a pipe, so that a hook which stays in the background
// cannot hold the verb up.
func (r *Runtime) captured(ctx context.Context, input []byte, verb string, args ...string) ([]byte, error) {
	out, err := memfd.New("runtime-output")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	open := func() (*os.File, error) { return os.Open(os.DevNull) }
	if input != nil {
		open = func() (*os.File, error) { return inputFile(input) }
	}
	stdin, err := open()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	err = r.run(ctx, Streams{stdin.Fd(), out.Fd(), out.Fd()}, verb, args...)
	data, readErr := io.ReadAll(io.NewSectionReader(out, 0, maxOutput))
	if failed, ok := errors.AsType[*Error](err); ok && strings.HasPrefix(failed.Text, "exit code") && len(bytes.TrimSpace(data)) > 0 {
		failed.Text = string(bytes.TrimSpace(data))
	}
	return data, errors.Join(err, readErr)
}

func inputFile(data []byte) (*os.File, error) {
	f, err := memfd.New("runtime-input")
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("write runtime input: %w", err), f.Close())
	}
	return f, nil
}

// readPID reads the file that a runtime wrote the pid to.
func readPID(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("pid file %q holds %q: %w", path, data, errdefs.ErrDataLoss)
	}
	return pid, nil
}
