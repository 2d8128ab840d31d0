package process

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Object is one thing in the kernel or on disk that belongs to a task.
type Object struct {
	Kind, ID, Detail string
	Runtime          bool // made by the runtime, not by the shim
}

// Explanation is what a task consists of and how long it took to make it.
type Explanation struct {
	Steps        []Step // the shim's
	RuntimeSteps []Step
	Objects      []Object
}

// Explain answers for one task. The runtime is asked only here, and left out if it does
// not answer.
func (ts *Tasks) Explain(ctx context.Context, containerID string) (Explanation, error) {
	t, err := ts.get(containerID)
	if err != nil {
		return Explanation{}, err
	}
	var ex Explanation
	if steps, err := t.runtime.Steps(ctx, t.id); err == nil {
		for _, s := range steps {
			ex.RuntimeSteps = append(ex.RuntimeSteps, Step(s))
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	ex.Steps = slices.Clone(t.steps)
	ex.Objects = append(ex.Objects,
		Object{Kind: "process", ID: strconv.Itoa(os.Getpid()), Detail: "shim"},
		Object{Kind: "file", ID: t.bundle, Detail: "bundle"},
		Object{Kind: "file", ID: filepath.Join(t.runtime.Root, t.id), Detail: "state of runtime " + t.runtime.Binary, Runtime: true})
	if t.mounted {
		ex.Objects = append(ex.Objects, Object{Kind: "mount", ID: filepath.Join(t.bundle, rootfsDir), Detail: "root filesystem"})
	}
	ex.Objects = append(ex.Objects, t.init.objectsLocked()...)
	for _, id := range slices.Sorted(maps.Keys(t.execs)) {
		ex.Objects = append(ex.Objects, t.execs[id].objectsLocked()...)
	}
	if t.cgroup != nil {
		paths := t.cgroup.Paths()
		for _, controller := range slices.Sorted(maps.Keys(paths)) {
			ex.Objects = append(ex.Objects, Object{Kind: "cgroup", ID: paths[controller], Detail: controller, Runtime: true})
		}
	}
	return ex, nil
}

// objectsLocked lists what belongs to one process.
//
// Preconditions: the task's mu is held.
func (p *Process) objectsLocked() []Object {
	name := "init"
	if p.execID != "" {
		name = "exec " + p.execID
	}
	var list []Object
	if p.pid != 0 && p.status != Stopped {
		list = append(list, Object{Kind: "process", ID: strconv.Itoa(p.pid), Detail: name + ", " + p.status.String(), Runtime: true})
		if p.execID == "" {
			list = append(list, namespaceObjects(p.pid)...)
		}
	}
	if p.io == nil || p.io.Hub() == nil {
		return list
	}
	socket, log := p.io.Hub().Describe()
	list = append(list, Object{Kind: "socket", ID: socket, Detail: "attach " + name})
	if log != "" {
		list = append(list, Object{Kind: "file", ID: log, Detail: "log of " + name})
	}
	return list
}

// namespaceObjects lists the kernel namespaces of a process, as their links in /proc say.
func namespaceObjects(pid int) []Object {
	dir := fmt.Sprintf("/proc/%d/ns", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []Object
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		detail := e.Name()
		if own, err := os.Readlink("/proc/self/ns/" + e.Name()); err == nil && own == link {
			detail += ", the host's"
		}
		list = append(list, Object{Kind: "namespace", ID: link, Detail: detail, Runtime: true})
	}
	return list
}
