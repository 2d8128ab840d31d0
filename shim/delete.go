package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/linux/mount"
	"strata/pkg/version"
	"strata/shim/internal/process"
	"strata/shim/internal/reaper"
	"strata/shim/internal/taskapi"
)

// killedStatus is the exit status of a container whose shim has died: 128 plus SIGKILL,
// as its true one is lost.
const killedStatus = 137

// deleteTimeout bounds the clean-up after a dead shim.
const deleteTimeout = 30 * time.Second

// withReaper runs fn in a process that has no server.
func withReaper(ctx context.Context, fn func(context.Context, *reaper.Reaper) error) error {
	r, err := reaper.New()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	reapCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); r.Run(reapCtx) }()
	defer func() { stop(); <-done }()
	return fn(ctx, r)
}

// Delete kills and frees what a dead shim has left of a container and writes the
// DeleteResponse to stdout. It may be repeated.
func Delete(ctx context.Context, cfg Config, stdout io.Writer) error {
	bundle, err := cfg.bundle()
	if err != nil {
		return fmt.Errorf("find bundle: %w", err)
	}
	opts, err := process.LoadOptions(bundle)
	if err != nil {
		return err
	}
	err = withReaper(ctx, func(ctx context.Context, r *reaper.Reaper) error {
		rt, err := process.NewRuntime(opts, cfg.Namespace, bundle, r)
		if err != nil {
			return err
		}
		return errors.Join(process.EndRuntimes(bundle, cfg.ContainerID), rt.ForceDelete(ctx, cfg.ContainerID))
	})
	err = errors.Join(err, process.RemoveHalfMade(bundle), mount.Unmount(filepath.Join(bundle, "rootfs")))
	if err != nil {
		return fmt.Errorf("clean up container %q: %w", cfg.ContainerID, err)
	}
	return writeMessage(stdout, &task.DeleteResponse{
		Pid: uint32(initPID(bundle)), ExitStatus: killedStatus, ExitedAt: timestamppb.Now(),
	})
}

// initPID is what the daemon wants to hear; zero if create did not get that far.
func initPID(bundle string) int {
	data, err := os.ReadFile(filepath.Join(bundle, "init.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return pid
}

// featuresType is what containerd's typeurl calls the runtime-spec's features.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// Info reads runtime options from stdin and writes what this shim with that runtime can
// do to stdout, as a RuntimeInfo.
func Info(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	data, err := io.ReadAll(io.LimitReader(stdin, 4<<20))
	if err != nil {
		return fmt.Errorf("read options: %w", err)
	}
	var packed anypb.Any
	if err := proto.Unmarshal(data, &packed); err != nil {
		return fmt.Errorf("decode options: %w", err)
	}
	opts, err := taskapi.DecodeRuncOptions(&packed)
	if err != nil {
		return err
	}
	info := &types.RuntimeInfo{Name: "io.containerd.strata.v2", Version: &types.RuntimeVersion{Version: version.Version}}
	if len(data) > 0 {
		info.Options = &packed
	}
	err = withReaper(ctx, func(ctx context.Context, r *reaper.Reaper) error {
		dir, err := os.MkdirTemp("", "strata-shim-info")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		rt, err := process.NewRuntime(process.Options{Binary: opts.GetBinaryName(), Root: opts.GetRoot()}, "info", dir, r)
		if err != nil {
			return err
		}
		features, err := rt.Features(ctx)
		if err == nil { // old runtimes have none
			info.Features = &anypb.Any{TypeUrl: featuresType, Value: features}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return writeMessage(stdout, info)
}

func writeMessage(w io.Writer, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode reply: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write reply: %w", err)
	}
	return nil
}
