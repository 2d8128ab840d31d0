package plan

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Op is an operation. Its text is one line for people.
type Op interface{ String() string }

// Plan is what the child will do.
type Plan struct {
	// Flags are the CLONE_NEW* flags of the first clone.
	Flags uint64
	// Ops are done in order.
	Ops []Op
	// Direct says why the machine itself must execute the program instead of the tail;
	// "" if it need not.
	Direct string
	// Warnings are promises of the spec that are weakened, for the log.
	Warnings []string
}

// Text is the plan in words, one numbered operation a line.
func (p *Plan) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "clone %s\n", flagWords(p.Flags))
	for i, o := range p.Ops {
		fmt.Fprintf(&b, "%2d %s\n", i, o)
	}
	if p.Direct != "" {
		fmt.Fprintf(&b, "executed without the tail: %s\n", p.Direct)
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	return b.String()
}

// The operations that set up a process.
type (
	// Undumpable hides the child until its execve.
	Undumpable struct{}
	// AwaitMaps waits until the parent has written the id maps, and becomes root.
	AwaitMaps struct{}
	// BecomeRoot becomes user 0 of a user namespace that was joined.
	BecomeRoot struct{}
	// Join enters a namespace.
	Join struct {
		Type specs.LinuxNamespaceType
		Path string
	}
	// TimeOffsets makes the time namespace of the next fork.
	TimeOffsets struct{ Text string }
	// Fork goes on in a new process, a child of the parent, with new namespaces.
	Fork struct{ Flags uint64 }
	// Session starts a session.
	Session struct{}
	// Keyring joins a new session keyring.
	Keyring struct{ Name string }
	// LoopbackUp brings lo up.
	LoopbackUp struct{}
	// Hostname sets the host name.
	Hostname struct{ Name string }
	// Domainname sets the NIS domain name.
	Domainname struct{ Name string }
	// CgroupNamespace waits until the parent has moved the child into its cgroup, and
	// makes that the root of a new cgroup namespace, unless New is false.
	CgroupNamespace struct{ New, ResetAffinity bool }
	// Sysctl writes a file of /proc/sys.
	Sysctl struct{ Name, Value string }
	// Personality sets the execution domain.
	Personality struct{ Persona uint64 }
	// Scheduler sets the scheduling policy.
	Scheduler struct{ Attr SchedAttr }
	// IOPriority sets the I/O priority.
	IOPriority struct{ Value int }
	// MemoryPolicy sets the NUMA policy.
	MemoryPolicy struct {
		Mode  int
		Nodes []uint64
	}
	// Affinity pins an exec to processors.
	Affinity struct {
		Mask []uint64
		Text string
	}
)

// SchedAttr is struct sched_attr of sched_setattr(2).
type SchedAttr struct {
	Size, Policy uint32
	Flags        uint64
	Nice         int32
	Priority     uint32
	Runtime      uint64
	Deadline     uint64
	Period       uint64
}

func (Undumpable) String() string    { return "hide from ptrace and /proc until execve" }
func (AwaitMaps) String() string     { return "await id maps, become root of the user namespace" }
func (BecomeRoot) String() string    { return "become root of the user namespace" }
func (o Join) String() string        { return fmt.Sprintf("join %s namespace %s", o.Type, o.Path) }
func (o TimeOffsets) String() string { return fmt.Sprintf("new time namespace %q", o.Text) }
func (o Fork) String() string        { return "fork into " + flagWords(o.Flags) }
func (Session) String() string       { return "start a session" }
func (o Keyring) String() string     { return "join session keyring " + o.Name }
func (LoopbackUp) String() string    { return "bring lo up" }
func (o Hostname) String() string    { return "set hostname " + o.Name }
func (o Domainname) String() string  { return "set domainname " + o.Name }
func (o Sysctl) String() string      { return fmt.Sprintf("sysctl %s=%s", o.Name, o.Value) }
func (o Personality) String() string { return fmt.Sprintf("personality %#x", o.Persona) }
func (o Scheduler) String() string   { return fmt.Sprintf("scheduler %+v", o.Attr) }
func (o IOPriority) String() string  { return fmt.Sprintf("io priority %#x", o.Value) }
func (o MemoryPolicy) String() string {
	return fmt.Sprintf("memory policy %#x nodes %v", o.Mode, o.Nodes)
}
func (o Affinity) String() string { return "run on processors " + o.Text }
func (o CgroupNamespace) String() string {
	if o.New {
		return "await cgroup, new cgroup namespace"
	}
	return "await cgroup"
}

// The operations that make the container's files.
type (
	// Rootfs attaches the root filesystem over its own path.
	Rootfs struct {
		Source      string
		Propagation uint64
	}
	// Filesystem mounts a new filesystem.
	Filesystem struct {
		Type, Source, Dest string
		Attrs              Attrs
		Data               []string
		// Optional: the kernel may refuse it to an unprivileged namespace; then the host's
		// own is bound instead.
		Fallback string
	}
	// Bind makes files of the host visible.
	Bind struct {
		Source, Dest string
		Recursive    bool
		Attrs        Attrs
		// Propagation is applied to the copy before Attrs.Propagation is: that of the root.
		Propagation uint64
		// IDMap carries mappings for an id-mapped mount; RecursiveIDMap maps the whole tree.
		IDMap *IDMap
	}
	// CopyUp is a tmpfs that starts with what the rootfs has at Dest.
	CopyUp struct{ Filesystem }
	// Remount changes a mount of the container.
	Remount struct {
		Dest  string
		Attrs Attrs
		Data  []string
		Bind  bool
	}
	// Device makes a device node, or binds the host's.
	Device struct {
		Path         string
		Type         string
		Major, Minor uint32
		Mode         uint32
		UID, GID     uint32
		Bind         bool
	}
	// Link makes a symbolic link.
	Link struct {
		Path, Target string
		// Replace removes what was there.
		Replace bool
	}
	// Console opens a pseudo-terminal in the container, sends its master to the caller
	// and makes its slave standard input, output and error.
	Console struct {
		Width, Height uint16
		// Mount also binds the terminal over /dev/console.
		Mount bool
		// Raw turns off the output's newline translation: the caller's terminal does it.
		Raw bool
		UID uint32
	}
	// Mask hides a path.
	Mask struct{ Path string }
	// ReadOnly makes a path read-only.
	ReadOnly struct{ Path string }
	// HostHooks lets the parent run the prestart and createRuntime hooks.
	HostHooks struct{}
	// RunHook runs a hook in the container's namespaces.
	RunHook struct {
		Name  string
		Index int
		Hook  specs.Hook
	}
	// Pivot makes the rootfs the root and lets go of the host's.
	Pivot struct{ Move bool }
	// RootAttrs sets the propagation of the root, and makes it read-only.
	RootAttrs struct {
		Propagation uint64
		ReadOnly    bool
	}
)

// IDMap is the map of an id-mapped mount. Without mappings it is the container's.
type IDMap struct {
	UID, GID  []specs.LinuxIDMapping
	Recursive bool
}

func (o Rootfs) String() string {
	return fmt.Sprintf("rootfs %s propagation=%s", o.Source, propagationWord(o.Propagation))
}

func (o Filesystem) String() string {
	s := fmt.Sprintf("mount %s on %s%s", o.Type, o.Dest, o.Attrs)
	if o.Source != "" && o.Source != o.Type {
		s += " source=" + o.Source
	}
	if len(o.Data) > 0 {
		s += " data=" + strings.Join(o.Data, ",")
	}
	if o.Fallback != "" {
		s += " or bind " + o.Fallback
	}
	return s
}

func (o Bind) String() string {
	verb := "bind"
	if o.Recursive {
		verb = "rbind"
	}
	s := fmt.Sprintf("%s %s on %s%s", verb, o.Source, o.Dest, o.Attrs)
	if o.Propagation != 0 {
		s += " from=" + propagationWord(o.Propagation)
	}
	if o.IDMap != nil {
		s += fmt.Sprintf(" idmap=%v/%v", o.IDMap.UID, o.IDMap.GID)
	}
	return s
}

func (o CopyUp) String() string { return "copy up: " + o.Filesystem.String() }

func (o Remount) String() string {
	s := "remount " + o.Dest + o.Attrs.String()
	if len(o.Data) > 0 {
		s += " data=" + strings.Join(o.Data, ",")
	}
	return s
}

func (o Device) String() string {
	verb := "mknod"
	if o.Bind {
		verb = "bind device"
	}
	return fmt.Sprintf("%s %s %s %d:%d mode=%#o owner=%d:%d", verb, o.Path, o.Type, o.Major, o.Minor, o.Mode, o.UID, o.GID)
}

func (o Link) String() string { return fmt.Sprintf("link %s -> %s", o.Path, o.Target) }
func (o Console) String() string {
	return fmt.Sprintf("console %dx%d mount=%v raw=%v owner=%d", o.Width, o.Height, o.Mount, o.Raw, o.UID)
}
func (o Mask) String() string     { return "mask " + o.Path }
func (o ReadOnly) String() string { return "read-only " + o.Path }
func (HostHooks) String() string  { return "await the runtime's hooks" }
func (o RunHook) String() string  { return fmt.Sprintf("%s hook #%d %s", o.Name, o.Index, o.Hook.Path) }

func (o Pivot) String() string {
	if o.Move {
		return "move the rootfs over / and chroot"
	}
	return "pivot_root"
}

func (o RootAttrs) String() string {
	return fmt.Sprintf("root propagation=%s readonly=%v", propagationWord(o.Propagation), o.ReadOnly)
}

// The operations that end the set-up; the tail makes those from Limits on.
type (
	// Stdio gives the standard streams to the container's user.
	Stdio struct{ UID uint32 }
	// Chdir changes to the working directory, made if it is missing, and checks that it
	// is inside the root.
	Chdir struct {
		Path string
		Make bool
	}
	// LookPath finds the program.
	LookPath struct {
		Name string
		Path []string // candidates, absolute or relative to the working directory
	}
	// Label sets the LSM label for the execve.
	Label struct{ AppArmor, SELinux string }
	// Limits sets resource limits.
	Limits struct{ List []Limit }
	// Identity becomes the user.
	Identity struct {
		UID, GID  uint32
		Groups    []uint32
		SetGroups bool
		Umask     uint32
	}
	// Capabilities are masks.
	Capabilities struct {
		Bounding, Effective, Permitted, Inheritable, Ambient uint64
		Last                                                 int
	}
	// NoNewPrivs sets the flag.
	NoNewPrivs struct{}
	// Seccomp loads the filter, which needs CAP_SYS_ADMIN or no_new_privs.
	Seccomp struct {
		Flags  uint32
		Notify bool
	}
	// Await says that the container is created and waits for its start.
	Await struct{}
	// Exec executes the program.
	Exec struct{ Args, Env []string }
)

// Limit is a resource limit.
type Limit struct {
	Resource   int
	Name       string
	Soft, Hard uint64
}

func (o Stdio) String() string { return fmt.Sprintf("give standard streams to %d", o.UID) }
func (o Chdir) String() string { return "change directory to " + o.Path }
func (o LookPath) String() string {
	return fmt.Sprintf("find %s in %s", o.Name, strings.Join(o.Path, ":"))
}

func (o Label) String() string {
	return fmt.Sprintf("label apparmor=%q selinux=%q", o.AppArmor, o.SELinux)
}

func (o Limits) String() string {
	words := make([]string, len(o.List))
	for i, l := range o.List {
		words[i] = fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard)
	}
	return "limits " + strings.Join(words, " ")
}

func (o Identity) String() string {
	return fmt.Sprintf("become %d:%d groups=%v umask=%#o", o.UID, o.GID, o.Groups, o.Umask)
}

func (o Capabilities) String() string {
	return fmt.Sprintf("capabilities bounding=%#x effective=%#x permitted=%#x inheritable=%#x ambient=%#x",
		o.Bounding, o.Effective, o.Permitted, o.Inheritable, o.Ambient)
}
func (NoNewPrivs) String() string { return "set no_new_privs" }
func (o Seccomp) String() string {
	return fmt.Sprintf("seccomp flags=%#x notify=%v", o.Flags, o.Notify)
}
func (Await) String() string  { return "created: await start" }
func (o Exec) String() string { return fmt.Sprintf("execve %q", o.Args) }

var cloneWords = []struct {
	flag uint64
	word string
}{
	{unix.CLONE_NEWUSER, "user"},
	{unix.CLONE_NEWPID, "pid"},
	{unix.CLONE_NEWNS, "mount"},
	{unix.CLONE_NEWNET, "network"},
	{unix.CLONE_NEWIPC, "ipc"},
	{unix.CLONE_NEWUTS, "uts"},
	{unix.CLONE_NEWCGROUP, "cgroup"},
	{unix.CLONE_NEWTIME, "time"},
}

func flagWords(flags uint64) string {
	var words []string
	for _, w := range cloneWords {
		if flags&w.flag != 0 {
			words = append(words, w.word)
		}
	}
	if len(words) == 0 {
		return "no new namespaces"
	}
	return "new " + strings.Join(words, ",")
}
