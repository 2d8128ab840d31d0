package ocicli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"strata/pkg/cleanup"
)

// CreateArgs are the arguments of a create.
type CreateArgs struct {
	ID            string
	Bundle        string
	PIDFile       string
	ConsoleSocket string // empty: no terminal
	NoPivotRoot   bool
	NoNewKeyring  bool
	Streams       Streams
}

// Create makes a container whose init process waits for [Runtime.Start]. It returns the
// pid of that process.
func (r *Runtime) Create(ctx context.Context, a CreateArgs) (pid int, err error) {
	args := []string{"--bundle", a.Bundle, "--pid-file", a.PIDFile}
	if a.ConsoleSocket != "" {
		args = append(args, "--console-socket", a.ConsoleSocket)
	}
	if a.NoPivotRoot {
		args = append(args, "--no-pivot")
	}
	if a.NoNewKeyring {
		args = append(args, "--no-new-keyring")
	}
	if err := r.run(ctx, a.Streams, "create", append(args, a.ID)...); err != nil {
		return 0, err
	}
	return readPID(a.PIDFile)
}

// Start lets the init process run the container's program.
func (r *Runtime) Start(ctx context.Context, containerID string) error {
	_, err := r.captured(ctx, nil, "start", containerID)
	return err
}

// ExecArgs are the arguments of an exec.
type ExecArgs struct {
	ContainerID   string
	ExecID        string
	Process       []byte // runtime-spec process, JSON
	ConsoleSocket string
	Streams       Streams
}

// Exec starts one more process and returns its pid.
func (r *Runtime) Exec(ctx context.Context, a ExecArgs) (pid int, err error) {
	spec := filepath.Join(r.LogDir, a.ExecID+"-process.json")
	pidFile := filepath.Join(r.LogDir, a.ExecID+".pid")
	if err := os.WriteFile(spec, a.Process, 0o600); err != nil {
		return 0, fmt.Errorf("write process: %w", err)
	}
	defer func() {
		for _, path := range []string{spec, pidFile} {
			if rmErr := os.Remove(path); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
		}
	}()
	args := []string{"--process", spec, "--detach", "--pid-file", pidFile}
	if a.ConsoleSocket != "" {
		args = append(args, "--console-socket", a.ConsoleSocket)
	}
	if err := r.run(ctx, a.Streams, "exec", append(args, a.ContainerID)...); err != nil {
		return 0, err
	}
	return readPID(pidFile)
}

// Kill sends a signal to the init process. The error is of class ErrNotFound if the
// container is gone.
func (r *Runtime) Kill(ctx context.Context, containerID string, signal int) error {
	_, err := r.captured(ctx, nil, "kill", containerID, strconv.Itoa(signal))
	return err
}

// KillAll sends a signal to every process of the container.
func (r *Runtime) KillAll(ctx context.Context, containerID string, signal int) error {
	_, err := r.captured(ctx, nil, "kill", "--all", containerID, strconv.Itoa(signal))
	return err
}

// Delete frees what the runtime holds of a stopped container.
func (r *Runtime) Delete(ctx context.Context, containerID string) error {
	_, err := r.captured(ctx, nil, "delete", containerID)
	return err
}

// ForceDelete kills the container if it runs and frees what the runtime holds of it. It
// is no error if there is no such container.
func (r *Runtime) ForceDelete(ctx context.Context, containerID string) error {
	ctx, cancel := cleanup.Context(ctx)
	defer cancel()
	_, err := r.captured(ctx, nil, "delete", "--force", containerID)
	return err
}

// Pause freezes the container.
func (r *Runtime) Pause(ctx context.Context, containerID string) error {
	_, err := r.captured(ctx, nil, "pause", containerID)
	return err
}

// Resume thaws the container.
func (r *Runtime) Resume(ctx context.Context, containerID string) error {
	_, err := r.captured(ctx, nil, "resume", containerID)
	return err
}

// Update changes limits: resources is the runtime-spec's linux.resources, JSON.
func (r *Runtime) Update(ctx context.Context, containerID string, resources []byte) error {
	_, err := r.captured(ctx, resources, "update", "--resources", "-", containerID)
	return err
}

// CheckpointArgs are the arguments of a checkpoint.
type CheckpointArgs struct {
	ImagePath, WorkPath, ParentPath           string
	LeaveRunning, TCP, UnixSockets, Terminals bool
	FileLocks                                 bool
	EmptyNamespaces                           []string
	CgroupsMode                               string
}

// Checkpoint writes the container's state to ImagePath with CRIU.
func (r *Runtime) Checkpoint(ctx context.Context, containerID string, a CheckpointArgs) error {
	args := []string{"--image-path", a.ImagePath}
	for _, o := range []struct{ flag, value string }{
		{"--work-path", a.WorkPath}, {"--parent-path", a.ParentPath}, {"--manage-cgroups-mode", a.CgroupsMode},
	} {
		if o.value != "" {
			args = append(args, o.flag, o.value)
		}
	}
	for _, o := range []struct {
		flag string
		set  bool
	}{
		{"--leave-running", a.LeaveRunning},
		{"--tcp-established", a.TCP},
		{"--ext-unix-sk", a.UnixSockets},
		{"--shell-job", a.Terminals},
		{"--file-locks", a.FileLocks},
	} {
		if o.set {
			args = append(args, o.flag)
		}
	}
	for _, ns := range a.EmptyNamespaces {
		args = append(args, "--empty-ns", ns)
	}
	_, err := r.captured(ctx, nil, "checkpoint", append(args, containerID)...)
	return err
}

// Step is one piece of work that the runtime has timed.
type Step struct {
	Name     string        `json:"name"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"durationNanos"`
}

// Steps returns what the runtime's own state says of its work, or nothing if it does not
// say. Only ocirun does, under the key "steps" of its state.
func (r *Runtime) Steps(ctx context.Context, containerID string) ([]Step, error) {
	out, err := r.captured(ctx, nil, "state", containerID)
	if err != nil {
		return nil, err
	}
	var state struct {
		Steps []Step `json:"steps"`
	}
	if err := json.Unmarshal(out, &state); err != nil {
		return nil, fmt.Errorf("decode runtime state: %w", err)
	}
	return state.Steps, nil
}

// Features returns the runtime's features as JSON (runtime-spec features.md).
func (r *Runtime) Features(ctx context.Context) ([]byte, error) {
	return r.captured(ctx, nil, "features")
}
