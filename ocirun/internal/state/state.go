package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/atomicfile"
)

// Step is the time that a part of create took.
type Step struct {
	Name          string    `json:"name"`
	Start         time.Time `json:"start"`
	DurationNanos int64     `json:"durationNanos"`
}

// State is what is stored. Config is what later verbs need of the spec.
type State struct {
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	StartTicks  uint64            `json:"startTicks"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Owner       string            `json:"owner"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Config      Config            `json:"config"`
	Cgroup      Cgroup            `json:"cgroup"`
	Steps       []Step            `json:"steps,omitempty"`
}

// Config is what later verbs need of the spec.
type Config struct {
	// Namespaces are the types that the container does not share with the host.
	Namespaces []specs.LinuxNamespaceType `json:"namespaces"`
	// Seccomp are the flags of the filter in seccomp.bpf; nil without one.
	Seccomp *Seccomp     `json:"seccomp,omitempty"`
	Hooks   *specs.Hooks `json:"hooks,omitempty"`
	// Bounding is the bounding set, which decides how carefully an exec must be made.
	Bounding     []string                `json:"bounding,omitempty"`
	NoNewKeyring bool                    `json:"noNewKeyring,omitempty"`
	ExecAffinity *specs.CPUAffinity      `json:"execCPUAffinity,omitempty"`
	Personality  *specs.LinuxPersonality `json:"personality,omitempty"`
}

// Seccomp describes the filter.
type Seccomp struct {
	Flags            uint32 `json:"flags"`
	ListenerPath     string `json:"listenerPath,omitempty"`
	ListenerMetadata string `json:"listenerMetadata,omitempty"`
	Notify           bool   `json:"notify,omitempty"`
}

// Cgroup is how the container's cgroup is found again.
type Cgroup struct {
	Paths    map[string]string `json:"paths,omitempty"`
	Systemd  bool              `json:"systemd,omitempty"`
	SpecPath string            `json:"specPath,omitempty"`
}

// The statuses of the runtime-spec, and paused.
const (
	Creating = "creating"
	Created  = "created"
	Running  = "running"
	Paused   = "paused"
	Stopped  = "stopped"
)

const (
	stateFile  = "state.json"
	intentFile = "creating.json"
	fifoFile   = "exec.fifo"
	// FilterFile is the name of the filter in a container's directory.
	FilterFile = "seccomp.bpf"
)

// Store is the runtime's root directory.
type Store struct{ Root string }

// ValidateID checks a container's id: letters, digits, "_+-.", and neither "." nor
// "..". The error is of class ErrInvalidArgument.
func ValidateID(id string) error {
	if id == "" {
		return fmt.Errorf("container id cannot be empty: %w", errdefs.ErrInvalidArgument)
	}
	if id == "." || id == ".." || len(id) > 1024 {
		return fmt.Errorf("invalid container id format: %q: %w", id, errdefs.ErrInvalidArgument)
	}
	for i := range len(id) {
		c := id[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_+-.", c) >= 0 {
			continue
		}
		return fmt.Errorf("invalid container id format: %q: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Dir is the directory of a container.
func (s Store) Dir(id string) string { return filepath.Join(s.Root, id) }

// FIFO is the file that the container waits on for its start.
func (s Store) FIFO(id string) string { return filepath.Join(s.Root, id, fifoFile) }

// Make makes the directory of a new container. The error is of class ErrAlreadyExists
// if there is one.
func (s Store) Make(id string) error {
	if err := ValidateID(id); err != nil {
		return err
	}
	err := os.Mkdir(s.Dir(id), 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(s.Root, 0o711); err == nil {
			err = os.Mkdir(s.Dir(id), 0o700)
		}
	}
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("container with given ID already exists: %w", errdefs.ErrAlreadyExists)
	}
	return err
}

// Remove forgets a container.
func (s Store) Remove(id string) error { return os.RemoveAll(s.Dir(id)) }

// Save stores st.
func (s Store) Save(st *State) error {
	data, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode state of %q: %w", st.ID, err)
	}
	return atomicfile.Write(filepath.Join(s.Dir(st.ID), stateFile), data, 0o600, atomicfile.Volatile)
}

// Load reads the state of a container. The error is of class ErrNotFound if there is
// none.
func (s Store) Load(id string) (*State, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(s.Dir(id), stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container does not exist: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	st := &State{}
	if err := json.Unmarshal(data, st); err != nil {
		return nil, fmt.Errorf("state of container %q: %w", id, err)
	}
	return st, nil
}

// Intent is what a create is about to make. It is written before the first of it, so that
// a delete finds what a create that was killed has left.
type Intent struct {
	Creator    int    `json:"creator"` // pid of the create
	StartTicks uint64 `json:"startTicks"`
	Cgroup     Cgroup `json:"cgroup"`
}

// Intend stores what this process is about to make.
func (s Store) Intend(id string, cgroup Cgroup) error {
	in := Intent{Creator: os.Getpid(), Cgroup: cgroup}
	var err error
	if in.StartTicks, _, err = StartTicks(in.Creator); err != nil {
		return err
	}
	data, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode intent of %q: %w", id, err)
	}
	// Half of it means that nothing was made yet.
	return os.WriteFile(filepath.Join(s.Dir(id), intentFile), data, 0o600)
}

// Intent returns what a create without a state was about to make; ok is false if that is
// nothing.
func (s Store) Intent(id string) (in Intent, ok bool) {
	data, err := os.ReadFile(filepath.Join(s.Dir(id), intentFile))
	return in, err == nil && json.Unmarshal(data, &in) == nil
}

// List returns the ids of all containers, sorted.
func (s Store) List() ([]string, error) {
	entries, err := os.ReadDir(s.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && ValidateID(e.Name()) == nil {
			if _, err := os.Stat(filepath.Join(s.Root, e.Name(), stateFile)); err == nil {
				ids = append(ids, e.Name())
			}
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Waiting reports whether the container still waits for its start.
func (s Store) Waiting(id string) bool {
	_, err := os.Lstat(s.FIFO(id))
	return err == nil
}

// Alive reports whether the init process lives: the pid is not another process's, and
// not a zombie's.
func (st *State) Alive() bool { return alive(st.PID, st.StartTicks) }

// Alive reports whether the create is still at work.
func (in Intent) Alive() bool { return alive(in.Creator, in.StartTicks) }

func alive(pid int, startTicks uint64) bool {
	if pid <= 0 {
		return false
	}
	ticks, zombie, err := StartTicks(pid)
	return err == nil && !zombie && ticks == startTicks
}

// StartTicks returns when process pid started, in clock ticks since boot, and whether
// it has ended already.
//
// Source: proc_pid_stat(5), fields 3 and 22.
func StartTicks(pid int) (ticks uint64, zombie bool, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	s := string(data)
	// The command may hold anything, even ")": fields are counted from its last one.
	i := strings.LastIndexByte(s, ')')
	fields := strings.Fields(s[i+1:])
	if i < 0 || len(fields) < 20 {
		return 0, false, fmt.Errorf("/proc/%d/stat is malformed: %q", pid, s)
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	return ticks, fields[0] == "Z" || fields[0] == "X", err
}
