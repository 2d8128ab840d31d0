package mount

import (
	"strings"

	"golang.org/x/sys/unix"
)

// flag is what one word of fstab(5) does to the flags of mount(2).
type flag struct {
	clear bool
	bits  uintptr
}

// flags holds the words that are flags; all others go to the filesystem.
var flags = map[string]flag{
	"async":         {true, unix.MS_SYNCHRONOUS},
	"atime":         {true, unix.MS_NOATIME},
	"bind":          {false, unix.MS_BIND},
	"defaults":      {},
	"dev":           {true, unix.MS_NODEV},
	"diratime":      {true, unix.MS_NODIRATIME},
	"dirsync":       {false, unix.MS_DIRSYNC},
	"exec":          {true, unix.MS_NOEXEC},
	"mand":          {false, unix.MS_MANDLOCK},
	"noatime":       {false, unix.MS_NOATIME},
	"nodev":         {false, unix.MS_NODEV},
	"nodiratime":    {false, unix.MS_NODIRATIME},
	"noexec":        {false, unix.MS_NOEXEC},
	"nomand":        {true, unix.MS_MANDLOCK},
	"norelatime":    {true, unix.MS_RELATIME},
	"nostrictatime": {true, unix.MS_STRICTATIME},
	"nosuid":        {false, unix.MS_NOSUID},
	"nosymfollow":   {false, unix.MS_NOSYMFOLLOW},
	"rbind":         {false, unix.MS_BIND | unix.MS_REC},
	"relatime":      {false, unix.MS_RELATIME},
	"remount":       {false, unix.MS_REMOUNT},
	"ro":            {false, unix.MS_RDONLY},
	"rw":            {true, unix.MS_RDONLY},
	"strictatime":   {false, unix.MS_STRICTATIME},
	"suid":          {true, unix.MS_NOSUID},
	"sync":          {false, unix.MS_SYNCHRONOUS},
}

// propagation holds the words that set how mount events spread.
var propagation = map[string]uintptr{
	"private":     unix.MS_PRIVATE,
	"rprivate":    unix.MS_PRIVATE | unix.MS_REC,
	"rshared":     unix.MS_SHARED | unix.MS_REC,
	"rslave":      unix.MS_SLAVE | unix.MS_REC,
	"runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
	"shared":      unix.MS_SHARED,
	"slave":       unix.MS_SLAVE,
	"unbindable":  unix.MS_UNBINDABLE,
}

// options are the words of a mount, sorted by who understands them.
type options struct {
	flags       uintptr // MS_*, without propagation
	propagation uintptr // zero: leave it
	data        []string
}

func parse(m Mount) options {
	var o options
	switch m.Type {
	case "bind":
		o.flags = unix.MS_BIND
	case "rbind":
		o.flags = unix.MS_BIND | unix.MS_REC
	}
	for _, word := range m.Options {
		if f, ok := flags[word]; ok {
			if f.clear {
				o.flags &^= f.bits
			} else {
				o.flags |= f.bits
			}
			continue
		}
		if p, ok := propagation[word]; ok {
			o.propagation = p
			continue
		}
		if word != "" {
			o.data = append(o.data, word)
		}
	}
	return o
}

// attributes returns the flags as attributes of fsmount(2) and mount_setattr(2). The
// kernel keeps one of three access time modes; the zero mode is relatime.
func (o options) attributes() (set uint64) {
	for _, p := range []struct {
		ms   uintptr
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if o.flags&p.ms != 0 {
			set |= p.attr
		}
	}
	switch {
	case o.flags&unix.MS_STRICTATIME != 0:
		set |= unix.MOUNT_ATTR_STRICTATIME
	case o.flags&unix.MS_NOATIME != 0:
		set |= unix.MOUNT_ATTR_NOATIME
	}
	return set
}

// splitLower splits the value of lowerdir at its colons; "\:" and "\\" stand for the
// characters themselves (Linux Documentation/filesystems/overlayfs.rst, "Multiple lower
// layers").
func splitLower(value string) []string {
	var dirs []string
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && i+1 < len(value):
			i++
			b.WriteByte(value[i])
		case c == ':':
			dirs = append(dirs, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(dirs, b.String())
}
