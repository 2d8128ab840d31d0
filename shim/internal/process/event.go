package process

import (
	"time"

	"strata/pkg/linux/mount"
)

// Exit is the end of a process, kept until Delete.
type Exit struct {
	Code uint32 // the process's own, or 128 plus the signal that killed it
	At   time.Time
}

// Kind says what has happened.
type Kind uint8

// The kinds of events.
const (
	TaskCreated Kind = iota + 1
	TaskStarted
	TaskExited // of the init process or an exec
	TaskDeleted
	TaskPaused
	TaskResumed
	TaskCheckpointed
	TaskOOM
	ExecAdded
	ExecStarted
)

// Event is a fact about a task. Fields that do not fit its kind are zero.
type Event struct {
	Kind        Kind
	At          time.Time
	ContainerID string
	ExecID      string // empty: the init process
	PID         int
	Exit        Exit
	Create      *CreateArgs // of TaskCreated
	Checkpoint  string
}

// CreateArgs is the wish for a task.
type CreateArgs struct {
	ContainerID string
	Bundle      string // absolute
	Rootfs      []mount.Mount
	Checkpoint  string
	Stdio       Stdio
	Options     Options
}

// Stdio are a process's streams, as its creator named them.
type Stdio struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// Options are what a creator may say of the runtime. They are kept in the bundle as
// JSON, for the shim's delete verb.
type Options struct {
	Binary        string `json:"binary_name,omitempty"` // name or absolute path; empty: the default
	Root          string `json:"root,omitempty"`        // state directory, without the namespace; empty: the default
	SystemdCgroup bool   `json:"systemd_cgroup,omitempty"`
	NoPivotRoot   bool   `json:"no_pivot_root,omitempty"`
	NoNewKeyring  bool   `json:"no_new_keyring,omitempty"`
	IOUID         uint32 `json:"io_uid,omitempty"`
	IOGID         uint32 `json:"io_gid,omitempty"`
}
