package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strata/pkg/linux/caps"
)

// Task is the running container that an exec joins.
type Task struct {
	// Types are the namespaces that the container does not share with the host.
	Types []specs.LinuxNamespaceType
	// Personality is the container's.
	Personality *specs.LinuxPersonality
}

// JoinTask enters namespaces of the container's init process by its pidfd.
type JoinTask struct{ Flags uint64 }

func (o JoinTask) String() string {
	return "join the task's " + strings.TrimPrefix(flagWords(o.Flags), "new ")
}

// CompileExec makes the plan of an exec: process p in the namespaces of t. The child
// starts in the pid namespace already, unless the runtime is unprivileged and must
// enter the user namespace first.
func CompileExec(p *specs.Process, t Task, h Host) (*Plan, error) {
	c := &compiler{s: &specs.Spec{Process: p, Linux: &specs.Linux{Personality: t.Personality}}, h: h, p: &Plan{}, ns: map[specs.LinuxNamespaceType]string{}}
	if err := validateProcess(p); err != nil {
		return nil, err
	}
	var flags uint64
	for _, n := range t.Types {
		c.ns[n] = ""
		flags |= CloneFlag(n)
	}
	c.add(Undumpable{})
	user := flags & unix.CLONE_NEWUSER
	pid := flags & unix.CLONE_NEWPID
	if h.Unprivileged && pid != 0 {
		if user != 0 {
			c.add(JoinTask{user}, BecomeRoot{})
		}
		c.add(JoinTask{pid}, Fork{0})
		user = 0
	}
	c.add(CgroupNamespace{ResetAffinity: p.ExecCPUAffinity == nil || p.ExecCPUAffinity.Initial == ""})
	if flags &^= unix.CLONE_NEWPID; user == 0 {
		flags &^= unix.CLONE_NEWUSER
	}
	if flags != 0 {
		c.add(JoinTask{flags})
	}
	if user != 0 {
		c.add(BecomeRoot{})
	}
	c.add(Session{})
	if !h.NoNewKeyring {
		c.add(Keyring{"_ses." + h.ID})
	}
	if p.Terminal {
		c.add(c.console(p, false))
	}
	if p.ExecCPUAffinity != nil && p.ExecCPUAffinity.Final != "" {
		mask, err := ParseCPUs(p.ExecCPUAffinity.Final)
		if err != nil {
			return nil, err
		}
		c.add(Affinity{mask, p.ExecCPUAffinity.Final})
	}
	if err := c.process(p, true); err != nil {
		return nil, err
	}
	return c.p, nil
}

// ParseCPUs parses a list such as "0-3,7" to a mask of 64-bit words. Errors are of
// class ErrInvalidArgument.
func ParseCPUs(list string) ([]uint64, error) {
	var mask []uint64
	for r := range strings.SplitSeq(list, ",") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(r), "-")
		if !isRange {
			hi = lo
		}
		a, err1 := strconv.ParseUint(lo, 10, 16)
		b, err2 := strconv.ParseUint(hi, 10, 16)
		if err1 != nil || err2 != nil || a > b || b >= 1<<13 {
			return nil, fmt.Errorf("processor list %q: %w", list, errdefs.ErrInvalidArgument)
		}
		for n := a; n <= b; n++ {
			for int(n/64) >= len(mask) {
				mask = append(mask, 0)
			}
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask, nil
}

func (c *compiler) console(p *specs.Process, mount bool) Console {
	out := Console{Mount: mount, UID: p.User.UID, Raw: c.h.Foreground}
	if p.ConsoleSize != nil {
		out.Width, out.Height = uint16(p.ConsoleSize.Width), uint16(p.ConsoleSize.Height)
	}
	return out
}

// process ends a plan: what becomes of the child when its surroundings stand.
func (c *compiler) process(p *specs.Process, exec bool) error {
	if p == nil {
		return fmt.Errorf("spec without a process: %w", errdefs.ErrInvalidArgument)
	}
	if err := c.attributes(p, exec); err != nil {
		return err
	}
	if !p.Terminal {
		c.add(Stdio{p.User.UID})
	}
	cwd := p.Cwd
	c.add(Chdir{Path: cwd, Make: !exec})
	env := c.environment(p.Env)
	c.add(LookPath{p.Args[0], candidates(p.Args[0], env)})
	if err := c.label(p); err != nil {
		return err
	}
	limits, err := c.limits(p.Rlimits)
	if err != nil {
		return err
	}
	if len(limits) > 0 {
		c.add(Limits{limits})
	}
	c.add(c.identity(p))
	set := c.capabilities(p)
	// Without no_new_privs a filter needs CAP_SYS_ADMIN: it is loaded before the drop.
	early := c.h.Seccomp != nil && !p.NoNewPrivileges
	if early {
		c.add(*c.h.Seccomp, set)
	} else {
		c.add(set)
	}
	if p.NoNewPrivileges {
		c.add(NoNewPrivs{})
	}
	if c.h.Seccomp != nil && !early {
		c.add(*c.h.Seccomp)
	}
	if c.h.Seccomp != nil && c.h.Seccomp.Notify {
		c.p.Direct = "a seccomp listener is handed over"
	}
	if !exec {
		c.add(Await{})
		if h := c.s.Hooks; h != nil && len(h.StartContainer) > 0 {
			c.p.Direct = "startContainer hooks"
			for i, hook := range h.StartContainer {
				if hook.Env == nil {
					hook.Env = env // as runc has always done
				}
				c.add(RunHook{"startContainer", i, hook})
			}
		}
	}
	c.add(Exec{p.Args, env})
	return nil
}

// attributes sets scheduling, execution domain and memory policy.
func (c *compiler) attributes(p *specs.Process, exec bool) error {
	if p.Scheduler != nil {
		a, err := scheduler(p.Scheduler)
		if err != nil {
			return err
		}
		c.add(Scheduler{a})
	}
	if p.IOPriority != nil {
		v, err := ioPriority(p.IOPriority)
		if err != nil {
			return err
		}
		c.add(IOPriority{v})
	}
	if d := c.s.Linux.Personality; d != nil {
		switch d.Domain {
		case specs.PerLinux:
			c.add(Personality{0})
		case specs.PerLinux32:
			c.add(Personality{8})
		default:
			return fmt.Errorf("personality %q: %w", d.Domain, errdefs.ErrInvalidArgument)
		}
		if len(d.Flags) > 0 {
			return fmt.Errorf("personality flags %v: %w", d.Flags, errdefs.ErrInvalidArgument)
		}
	}
	if m := c.s.Linux.MemoryPolicy; m != nil && !exec {
		op, err := memoryPolicy(m)
		if err != nil {
			return err
		}
		c.add(op)
	}
	return nil
}

// environment keeps the last value of each variable, and gives HOME one.
func (c *compiler) environment(env []string) []string {
	out := make([]string, 0, len(env)+3)
	at := make(map[string]int, len(env))
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	if c.h.Home != "" {
		if i, ok := at["HOME"]; !ok {
			out = append(out, "HOME="+c.h.Home)
		} else if out[i] == "HOME=" {
			out[i] += c.h.Home
		}
	}
	if c.h.ListenFDs > 0 {
		out = append(out, "LISTEN_FDS="+strconv.Itoa(c.h.ListenFDs), "LISTEN_PID=1")
	}
	return out
}

// candidates are the files that name may mean, as execvp(3) has it, without the
// working directory.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var path string
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v // the last one counts, as getenv in the container would have it
		}
	}
	var out []string
	for dir := range strings.SplitSeq(path, ":") {
		if strings.HasPrefix(dir, "/") {
			out = append(out, strings.TrimSuffix(dir, "/")+"/"+name)
		}
	}
	return out
}

func (c *compiler) label(p *specs.Process) error {
	l := Label{}
	if p.ApparmorProfile != "" {
		if !c.h.AppArmor {
			return fmt.Errorf("apparmor profile %q: apparmor is not enabled on the system: %w", p.ApparmorProfile, errdefs.ErrFailedPrecondition)
		}
		l.AppArmor = p.ApparmorProfile
	}
	if p.SelinuxLabel != "" {
		if !c.h.SELinux {
			return fmt.Errorf("selinux label %q is specified in config, but selinux is disabled or not supported: %w", p.SelinuxLabel, errdefs.ErrFailedPrecondition)
		}
		l.SELinux = p.SelinuxLabel
	}
	if l != (Label{}) {
		c.add(l)
		c.p.Direct = "an LSM label is for the next execve"
	}
	return nil
}

var resources = []string{
	"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
	"MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
}

// limits clamps what this runtime is not allowed to raise and says so.
func (c *compiler) limits(list []specs.POSIXRlimit) ([]Limit, error) {
	var out []Limit
	for _, r := range list {
		n := slices.Index(resources, strings.TrimPrefix(r.Type, "RLIMIT_"))
		if n < 0 || !strings.HasPrefix(r.Type, "RLIMIT_") {
			return nil, fmt.Errorf("rlimit %q: %w", r.Type, errdefs.ErrInvalidArgument)
		}
		if slices.ContainsFunc(out, func(l Limit) bool { return l.Resource == n }) {
			return nil, fmt.Errorf("rlimit %q is given twice: %w", r.Type, errdefs.ErrInvalidArgument)
		}
		l := Limit{n, strings.ToLower(resources[n]), r.Soft, r.Hard}
		if hard, ok := c.h.Limits[n]; ok && !c.h.CanRaise && l.Hard > hard {
			c.warn("%s %d is above the runtime's own hard limit and it lacks CAP_SYS_RESOURCE: clamped to %d", r.Type, r.Hard, hard)
			l.Hard = hard
			l.Soft = min(l.Soft, hard)
		}
		out = append(out, l)
	}
	return out, nil
}

func (c *compiler) identity(p *specs.Process) Identity {
	id := Identity{UID: p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids, SetGroups: true, Umask: 0o022}
	if p.User.Umask != nil {
		id.Umask = *p.User.Umask
	}
	if c.h.Unprivileged && len(id.Groups) == 0 {
		id.SetGroups = false // setgroups may be denied in the namespace, and is not needed
	}
	return id
}

func (c *compiler) capabilities(p *specs.Process) Capabilities {
	out := Capabilities{Last: c.h.LastCap}
	s := p.Capabilities
	if s == nil {
		s = &specs.LinuxCapabilities{}
	}
	var unknown []string
	for _, set := range []struct {
		dst  *uint64
		list []string
	}{
		{&out.Bounding, s.Bounding},
		{&out.Effective, s.Effective},
		{&out.Permitted, s.Permitted},
		{&out.Inheritable, s.Inheritable},
		{&out.Ambient, s.Ambient},
	} {
		m, u := caps.Parse(set.list, c.h.LastCap)
		if c.h.Caps != 0 && !c.has(specs.UserNamespace) {
			u = append(u, (m &^ caps.Set(c.h.Caps)).Names()...)
			m &= caps.Set(c.h.Caps)
		}
		*set.dst = uint64(m)
		unknown = append(unknown, u...)
	}
	for _, name := range caps.Set(out.Ambient &^ (out.Permitted & out.Inheritable)).Names() {
		c.warn("can't raise ambient capability %s: it is not both permitted and inheritable", name)
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		c.warn("ignoring unknown or unavailable capabilities: %v", slices.Compact(unknown))
	}
	return out
}
