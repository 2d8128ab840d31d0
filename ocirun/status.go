package ocirun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"

	"strata/ocirun/internal/state"
	"strata/pkg/linux/cgroups"
)

// report is what state and list print: the runtime-spec's state with runc's additions,
// and how long the steps of create took.
type report struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
	Steps       []state.Step      `json:"steps,omitempty"`
}

// status asks the kernel.
func (a *app) status(st *state.State) string {
	switch {
	case !st.Alive():
		return state.Stopped
	case a.store.Waiting(st.ID):
		return state.Created
	}
	if len(st.Cgroup.Paths) > 0 {
		if frozen, err := manager(st).Frozen(); err == nil && frozen {
			return state.Paused
		}
	}
	return state.Running
}

// manager is the container's cgroup.
func manager(st *state.State) *cgroups.Manager { return cgroups.Load(st.Cgroup.Paths) }

// cgroupOf is manager for what makes no sense without a cgroup.
func cgroupOf(st *state.State) (*cgroups.Manager, error) {
	if len(st.Cgroup.Paths) == 0 {
		return nil, fmt.Errorf("container %q has no cgroup of its own: its user was not allowed to make one: %w", st.ID, errdefs.ErrFailedPrecondition)
	}
	return manager(st), nil
}

func (a *app) report(st *state.State) report {
	r := report{
		Version: specVersion, ID: st.ID, PID: st.PID, Status: a.status(st), Bundle: st.Bundle, Rootfs: st.Rootfs,
		Created: st.Created, Annotations: st.Annotations, Owner: st.Owner, Steps: st.Steps,
	}
	if r.Status == state.Stopped {
		r.PID = 0
	}
	return r
}

// load finds the container that a verb is about.
func (a *app) load(verb string, args []string) (*state.State, error) {
	id, err := newFlags(verb).parseID(args)
	if err != nil {
		return nil, err
	}
	return a.store.Load(id)
}

func (a *app) state(args []string) error {
	st, err := a.load("state", args)
	if err != nil {
		return err
	}
	return a.printJSON(a.report(st), "  ")
}

func (a *app) printJSON(v any, indent string) error {
	var data []byte
	var err error
	if indent == "" {
		data, err = json.Marshal(v)
	} else {
		data, err = json.MarshalIndent(v, "", indent)
	}
	if err != nil {
		return err
	}
	_, err = a.cfg.Stdout.Write(append(data, '\n'))
	return err
}

func (a *app) list(args []string) error {
	var format string
	var quiet bool
	f := newFlags("list")
	f.str(&format, "format", "f")
	f.bool(&quiet, "quiet", "q")
	if rest, err := f.parse(args); err != nil || len(rest) > 0 {
		return errors.Join(err, unexpected("list", rest))
	}
	if a.glob.root != "" {
		if _, err := os.Stat(a.glob.root); err != nil {
			return err
		}
	}
	ids, err := a.store.List()
	if err != nil {
		return err
	}
	if quiet {
		for _, id := range ids {
			fmt.Fprintln(a.cfg.Stdout, id)
		}
		return nil
	}
	reports := []report{}
	for _, id := range ids {
		st, err := a.store.Load(id)
		if errors.Is(err, errdefs.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		r := a.report(st)
		r.Owner = userName(r.Owner)
		r.Steps = nil
		reports = append(reports, r)
	}
	switch format {
	case "json":
		return a.printJSON(reports, "")
	case "", "table":
		w := tabwriter.NewWriter(a.cfg.Stdout, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, r := range reports {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", r.ID, r.PID, r.Status, r.Bundle, r.Created.Format(time.RFC3339Nano), r.Owner)
		}
		return w.Flush()
	}
	return fmt.Errorf("invalid format option %q: %w", format, errdefs.ErrInvalidArgument)
}

func unexpected(verb string, words []string) error {
	if len(words) == 0 {
		return nil
	}
	return fmt.Errorf("%s: unexpected argument %q: %w", verb, words[0], errdefs.ErrInvalidArgument)
}

func userName(uid string) string {
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "#" + uid
}

// ps prints the processes of the container: their pids as JSON, or the lines of ps(1).
func (a *app) ps(args []string) error {
	format := "table"
	f := newFlags("ps")
	f.str(&format, "format", "f")
	rest, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return fmt.Errorf("%q requires a minimum of 1 argument: %w", "ps", errdefs.ErrInvalidArgument)
	}
	st, err := a.store.Load(rest[0])
	if err != nil {
		return err
	}
	m, err := cgroupOf(st)
	if err != nil {
		return err
	}
	pids, err := m.Pids()
	if err != nil {
		return err
	}
	if pids == nil {
		pids = []int{}
	}
	switch format {
	case "json":
		return a.printJSON(pids, "")
	case "table":
		psArgs := rest[1:]
		if len(psArgs) == 0 {
			psArgs = []string{"-ef"}
		}
		return a.psTable(pids, psArgs)
	}
	return fmt.Errorf("invalid format option %q: %w", format, errdefs.ErrInvalidArgument)
}

func (a *app) psTable(pids []int, args []string) error {
	out, err := output("ps", args)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := -1
	for i, name := range strings.Fields(lines[0]) {
		if name == "PID" {
			column = i
		}
	}
	if column < 0 {
		return fmt.Errorf("couldn't find PID field in ps output")
	}
	inside := map[string]bool{}
	for _, p := range pids {
		inside[fmt.Sprint(p)] = true
	}
	fmt.Fprintln(a.cfg.Stdout, lines[0])
	for _, l := range lines[1:] {
		if f := strings.Fields(l); len(f) > column && inside[f[column]] {
			fmt.Fprintln(a.cfg.Stdout, l)
		}
	}
	return nil
}

// output runs a program of the host and returns its standard output. It is what little
// is needed of os/exec.
func output(name string, args []string) ([]byte, error) {
	var path string
	for _, dir := range []string{"/usr/bin/", "/bin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			path = dir + name
			break
		}
	}
	if path == "" {
		return nil, fmt.Errorf("exec: %q: executable file not found", name)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p, err := os.StartProcess(path, append([]string{name}, args...), &os.ProcAttr{Files: []*os.File{nil, w, os.Stderr}})
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	out, rerr := io.ReadAll(r)
	st, err := p.Wait()
	if err == nil && !st.Success() {
		err = fmt.Errorf("%s: %s", name, st)
	}
	return out, errors.Join(rerr, err)
}
