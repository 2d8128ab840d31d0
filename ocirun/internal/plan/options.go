package plan

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Attrs are mount attributes in the terms of mount_setattr(2): what to set and what to
// clear, for the mount alone and (Rec) for the whole tree. SB are words for the
// filesystem itself.
type Attrs struct {
	Set, Clear       uint64
	RecSet, RecClear uint64
	Propagation      uint64
	// PropagationRec applies Propagation to the tree.
	PropagationRec bool
	SB             []string
}

// IsZero reports whether nothing is to be changed.
func (a Attrs) IsZero() bool {
	return a.Set|a.Clear|a.RecSet|a.RecClear|a.Propagation == 0 && len(a.SB) == 0
}

func (a Attrs) String() string {
	var w []string
	add := func(set uint64, prefix string) {
		for _, o := range attrWords {
			if set&o.bit != 0 {
				w = append(w, prefix+o.word)
			}
		}
	}
	add(a.Set, "")
	add(a.Clear&^a.Set, "-")
	add(a.RecSet, "r")
	add(a.RecClear&^a.RecSet, "-r")
	if a.Propagation != 0 {
		p := propagationWord(a.Propagation)
		if a.PropagationRec {
			p = "r" + p
		}
		w = append(w, p)
	}
	for _, s := range a.SB {
		w = append(w, "sb:"+s)
	}
	if len(w) == 0 {
		return ""
	}
	return " " + strings.Join(w, ",")
}

var attrWords = []struct {
	bit  uint64
	word string
}{
	{unix.MOUNT_ATTR_RDONLY, "ro"},
	{unix.MOUNT_ATTR_NOSUID, "nosuid"},
	{unix.MOUNT_ATTR_NODEV, "nodev"},
	{unix.MOUNT_ATTR_NOEXEC, "noexec"},
	{unix.MOUNT_ATTR_NOATIME, "noatime"},
	{unix.MOUNT_ATTR_STRICTATIME, "strictatime"},
	{unix.MOUNT_ATTR_NODIRATIME, "nodiratime"},
	{unix.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"},
}

func propagationWord(p uint64) string {
	switch p {
	case unix.MS_PRIVATE:
		return "private"
	case unix.MS_SHARED:
		return "shared"
	case unix.MS_SLAVE:
		return "slave"
	case unix.MS_UNBINDABLE:
		return "unbindable"
	}
	return "unchanged"
}

// attrOption is a mount option that is an attribute.
type attrOption struct{ set, clear uint64 }

// atime options exclude each other: they share three bits, 0 being relatime.
const atimeMask = unix.MOUNT_ATTR__ATIME

var attrOptions = map[string]attrOption{
	"ro":            {unix.MOUNT_ATTR_RDONLY, 0},
	"rw":            {0, unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {unix.MOUNT_ATTR_NOSUID, 0},
	"suid":          {0, unix.MOUNT_ATTR_NOSUID},
	"nodev":         {unix.MOUNT_ATTR_NODEV, 0},
	"dev":           {0, unix.MOUNT_ATTR_NODEV},
	"noexec":        {unix.MOUNT_ATTR_NOEXEC, 0},
	"exec":          {0, unix.MOUNT_ATTR_NOEXEC},
	"nodiratime":    {unix.MOUNT_ATTR_NODIRATIME, 0},
	"diratime":      {0, unix.MOUNT_ATTR_NODIRATIME},
	"noatime":       {unix.MOUNT_ATTR_NOATIME, atimeMask},
	"atime":         {0, atimeMask},
	"relatime":      {0, atimeMask},
	"norelatime":    {0, atimeMask},
	"strictatime":   {unix.MOUNT_ATTR_STRICTATIME, atimeMask},
	"nostrictatime": {0, atimeMask},
	"nosymfollow":   {unix.MOUNT_ATTR_NOSYMFOLLOW, 0},
	"symfollow":     {0, unix.MOUNT_ATTR_NOSYMFOLLOW},
}

// recursiveOptions are the attribute options that exist with an "r" in front
// (runtime-spec v1.3 config.md: recursive mount options).
var recursiveOptions = []string{
	"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "nodiratime", "diratime", "noatime", "atime",
	"relatime", "norelatime", "strictatime", "nostrictatime", "nosymfollow", "symfollow",
}

var propagationOptions = map[string]struct {
	flag uint64
	rec  bool
}{
	"private": {unix.MS_PRIVATE, false}, "rprivate": {unix.MS_PRIVATE, true},
	"shared": {unix.MS_SHARED, false}, "rshared": {unix.MS_SHARED, true},
	"slave": {unix.MS_SLAVE, false}, "rslave": {unix.MS_SLAVE, true},
	"unbindable": {unix.MS_UNBINDABLE, false}, "runbindable": {unix.MS_UNBINDABLE, true},
}

// sbOptions belong to the filesystem. Those with an empty word change nothing: they
// name a default.
var sbOptions = map[string]string{
	"sync": "sync", "async": "", "dirsync": "dirsync", "lazytime": "lazytime", "nolazytime": "",
	"mand": "mand", "nomand": "", "iversion": "", "noiversion": "", "silent": "", "loud": "",
	"defaults": "",
}

// otherOptions have a meaning of their own.
var otherOptions = []string{"bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"}

// mountOptions is what the options of a mount say.
type mountOptions struct {
	attrs              Attrs
	data               []string
	bind, rec, remount bool
	copyUp             bool
	idmap, ridmap      bool
}

func parseOptions(list []string) mountOptions {
	var o mountOptions
	for _, w := range list {
		if a, ok := attrOptions[w]; ok {
			o.attrs.Set = o.attrs.Set&^(a.set|a.clear) | a.set
			o.attrs.Clear |= a.set&atimeMask | a.clear
			continue
		}
		if p, ok := propagationOptions[w]; ok {
			o.attrs.Propagation, o.attrs.PropagationRec = p.flag, p.rec
			continue
		}
		if sb, ok := sbOptions[w]; ok {
			if sb != "" {
				o.attrs.SB = append(o.attrs.SB, sb)
			}
			continue
		}
		switch w {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.rec = true, true
		case "remount":
			o.remount = true
		case "tmpcopyup":
			o.copyUp = true
		case "idmap":
			o.idmap = true
		case "ridmap":
			o.ridmap = true
		default:
			if rest, ok := strings.CutPrefix(w, "r"); ok && slices.Contains(recursiveOptions, rest) {
				a := attrOptions[rest]
				o.attrs.RecSet = o.attrs.RecSet&^(a.set|a.clear) | a.set
				o.attrs.RecClear |= a.set&atimeMask | a.clear
				continue
			}
			o.data = append(o.data, w)
		}
	}
	return o
}

// KnownMountOptions returns the options that are not handed to the filesystem, sorted.
func KnownMountOptions() []string {
	var out []string
	for w := range attrOptions {
		out = append(out, w)
	}
	for _, w := range recursiveOptions {
		out = append(out, "r"+w)
	}
	for w := range propagationOptions {
		out = append(out, w)
	}
	for w := range sbOptions {
		out = append(out, w)
	}
	out = append(out, otherOptions...)
	slices.Sort(out)
	return slices.Compact(out)
}
