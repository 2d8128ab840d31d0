package taskapi

import (
	"fmt"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	wiretask "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/linux/mount"
	"strata/shim/internal/ocicli"
	"strata/shim/internal/process"
)

// The names of option messages, without the prefix that newer clients put before them.
const (
	runcOptions       = "containerd.runc.v1.Options"
	checkpointOptions = "containerd.runc.v1.CheckpointOptions"
	genericOptions    = "runtimeoptions.v1.Options"
)

// linuxResources is the end of the type URL of the runtime-spec's resources, which are JSON.
const linuxResources = "LinuxResources"

// toAny packs a message as containerd's typeurl does: under its bare full name.
func toAny(m proto.Message) (*anypb.Any, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: data}, nil
}

func typeName(a *anypb.Any) string {
	return a.GetTypeUrl()[strings.LastIndexByte(a.GetTypeUrl(), '/')+1:]
}

// DecodeRuncOptions reads the options of a runtime. None are zero options.
func DecodeRuncOptions(a *anypb.Any) (*options.Options, error) {
	o := &options.Options{}
	switch name := typeName(a); {
	case a == nil || len(a.GetValue()) == 0, strings.HasSuffix(name, genericOptions):
		return o, nil // generic ones name a configuration file, which we have not
	case name != runcOptions:
		return nil, fmt.Errorf("runtime options of type %q, want %s: %w", a.GetTypeUrl(), runcOptions, errdefs.ErrInvalidArgument)
	}
	if err := proto.Unmarshal(a.GetValue(), o); err != nil {
		return nil, fmt.Errorf("decode runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return o, nil
}

func decodeOptions(a *anypb.Any) (process.Options, error) {
	o, err := DecodeRuncOptions(a)
	if err != nil {
		return process.Options{}, err
	}
	return process.Options{
		Binary: o.GetBinaryName(), Root: o.GetRoot(), SystemdCgroup: o.GetSystemdCgroup(),
		NoPivotRoot: o.GetNoPivotRoot(), NoNewKeyring: o.GetNoNewKeyring(), IOUID: o.GetIoUid(), IOGID: o.GetIoGid(),
	}, nil
}

func decodeCheckpoint(r *task.CheckpointTaskRequest) (ocicli.CheckpointArgs, error) {
	o := &options.CheckpointOptions{}
	if a := r.GetOptions(); a != nil {
		if typeName(a) != checkpointOptions {
			return ocicli.CheckpointArgs{}, fmt.Errorf("checkpoint options of type %q: %w", a.GetTypeUrl(), errdefs.ErrInvalidArgument)
		}
		if err := proto.Unmarshal(a.GetValue(), o); err != nil {
			return ocicli.CheckpointArgs{}, fmt.Errorf("decode checkpoint options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	args := ocicli.CheckpointArgs{
		ImagePath: r.GetPath(), WorkPath: o.GetWorkPath(), ParentPath: o.GetParentPath(), LeaveRunning: !o.GetExit(),
		TCP: o.GetOpenTcp(), UnixSockets: o.GetExternalUnixSockets(), Terminals: o.GetTerminal(), FileLocks: o.GetFileLocks(),
		EmptyNamespaces: o.GetEmptyNamespaces(), CgroupsMode: o.GetCgroupsMode(),
	}
	if o.GetImagePath() != "" {
		args.ImagePath = o.GetImagePath()
	}
	return args, nil
}

func mountsFromWire(wire []*types.Mount) []mount.Mount {
	mounts := make([]mount.Mount, 0, len(wire))
	for _, m := range wire {
		mounts = append(mounts, mount.Mount{Type: m.GetType(), Source: m.GetSource(), Target: m.GetTarget(), Options: m.GetOptions()})
	}
	return mounts
}

func mountsToWire(mounts []mount.Mount) []*types.Mount {
	wire := make([]*types.Mount, 0, len(mounts))
	for _, m := range mounts {
		wire = append(wire, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return wire
}

// timeToWire leaves the zero time out.
func timeToWire(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// statusToWire: an exec that was added and not started is created, as runc's shim says.
func statusToWire(s process.Status) wiretask.Status {
	switch s {
	case process.Creating, process.Created:
		return wiretask.Status_CREATED
	case process.Running:
		return wiretask.Status_RUNNING
	case process.Paused:
		return wiretask.Status_PAUSED
	case process.Stopped:
		return wiretask.Status_STOPPED
	}
	return wiretask.Status_UNKNOWN
}

func stateToWire(s process.Snapshot) *task.StateResponse {
	return &task.StateResponse{
		ID: s.ContainerID, ExecID: s.ExecID, Bundle: s.Bundle, Pid: uint32(s.PID), Status: statusToWire(s.Status),
		Stdin: s.Stdio.Stdin, Stdout: s.Stdio.Stdout, Stderr: s.Stdio.Stderr, Terminal: s.Stdio.Terminal,
		ExitStatus: s.Exit.Code, ExitedAt: timeToWire(s.Exit.At),
	}
}

func membersToWire(members []process.Member) (*task.PidsResponse, error) {
	resp := &task.PidsResponse{}
	for _, m := range members {
		info := &wiretask.ProcessInfo{Pid: uint32(m.PID)}
		if m.ExecID != "" {
			details, err := toAny(&options.ProcessDetails{ExecID: m.ExecID})
			if err != nil {
				return nil, err
			}
			info.Info = details
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}
