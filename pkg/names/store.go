package names

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// Store keeps a [File] and the networks it names, as they are on disk. Its methods are safe
// for concurrent use.
type Store struct {
	path string

	mu      sync.Mutex
	seen    map[string]stamp // of the files that view was made of
	checked time.Time        // when they were last compared with the disk
	view    *View
}

// trust is how long a View is believed without a look at the disk. A look costs as much as
// the rest of an answer, and nobody who was told of a change can ask sooner. Our measurement,
// 2026-11: 10 µs for two files.
const trust = time.Millisecond

// stamp tells a version of a file from others: files are replaced, never written into.
type stamp struct {
	inode os.FileInfo
	size  int64
	mod   time.Time
}

// Open reads the File at path. Errors are those of [Read].
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	if _, err := Read(path); err != nil {
		return nil, err
	}
	s.View()
	return s, nil
}

// View returns what the files say now, or said at most a millisecond ago. While the File cannot be read, what it said last
// stays; a Network that cannot be read has no members.
func (s *Store) View() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.view != nil && now.Sub(s.checked) < trust {
		return s.view
	}
	s.checked = now
	if s.view != nil && s.fresh() {
		return s.view
	}
	s.seen = map[string]stamp{s.path: stampOf(s.path)} // before it is read: at worst it is read twice
	f, err := Read(s.path)
	if err != nil {
		if s.view == nil {
			s.view = newView()
		}
		return s.view
	}
	v := newView()
	v.Upstreams = f.Upstreams
	if len(f.Upstreams) == 0 && f.ResolvConf != "" {
		s.seen[f.ResolvConf] = stampOf(f.ResolvConf)
		v.Upstreams = servers(f.ResolvConf)
	}
	for _, m := range f.Networks {
		s.seen[m.Path] = stampOf(m.Path)
		var n Network
		if err := read(m.Path, &n); err == nil {
			v.add(n, m.Links)
		}
	}
	s.view = v
	return v
}

// fresh reports whether the files are those that were read.
func (s *Store) fresh() bool {
	for path, old := range s.seen {
		now := stampOf(path)
		if (now.inode == nil) != (old.inode == nil) {
			return false
		}
		if now.inode != nil && (now.size != old.size || !now.mod.Equal(old.mod) || !os.SameFile(now.inode, old.inode)) {
			return false
		}
	}
	return true
}

func stampOf(path string) stamp {
	st, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{st, st.Size(), st.ModTime()}
}

// maxServers is how many servers of a resolv.conf count, as in glibc's MAXNS (resolv.conf(5)).
const maxServers = 3

// servers reads the nameservers of a resolv.conf.
func servers(path string) []netip.AddrPort {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 2 || f[0] != "nameserver" || len(out) == maxServers {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a, Port))
		}
	}
	return out
}

// View is the names as they were at one moment. It does not change.
type View struct {
	Upstreams []netip.AddrPort

	hosts   map[string][]*Host // by lower-case name
	reverse map[netip.Addr]string
	subnets []netip.Prefix
}

func newView() *View { return &View{hosts: map[string][]*Host{}, reverse: map[netip.Addr]string{}} }

// Bounds of the characters of an id that are a name: a DNS label has no more (RFC 1035,
// 2.3.4), and less is no id.
const minID, maxID = 12, 63

// add makes the members of a network known.
func (v *View) add(n Network, links map[string]string) {
	v.subnets = append(v.subnets, n.Subnets...)
	network := strings.ToLower(n.Name)
	put := func(name string, h *Host) {
		for _, key := range []string{name, name + "." + network} {
			if known := v.hosts[key]; len(known) == 0 || known[len(known)-1] != h {
				v.hosts[key] = append(known, h)
			}
		}
	}
	for i := range n.Hosts {
		h := &n.Hosts[i]
		for _, name := range h.Names {
			put(strings.ToLower(strings.TrimSuffix(name, ".")), h)
		}
		if len(h.ID) >= minID {
			put(strings.ToLower(h.ID[:minID]), h) // longer ones are looked up by their beginning
		}
		for _, a := range h.Addrs {
			if len(h.Names) > 0 {
				v.reverse[a.Unmap()] = h.Names[0] + "." + n.Name + "."
			}
		}
	}
	for alias, name := range links {
		for i := range n.Hosts {
			if h := &n.Hosts[i]; len(h.Names) > 0 && strings.EqualFold(h.Names[0], name) {
				put(strings.ToLower(alias), h)
			}
		}
	}
}

// Lookup returns who has a name: a container's name, alias, link, or the beginning of its
// id, alone or with the network's name behind a dot. Case and a dot at the end do not count.
func (v *View) Lookup(name string) []*Host {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if hosts := v.hosts[name]; hosts != nil {
		return hosts
	}
	id, rest, _ := strings.Cut(name, ".")
	if len(id) <= minID || len(id) > maxID {
		return nil
	}
	key := id[:minID]
	if rest != "" {
		key += "." + rest
	}
	var out []*Host
	for _, h := range v.hosts[key] {
		if strings.HasPrefix(h.ID, id) {
			out = append(out, h)
		}
	}
	return out
}

// Reverse returns the full name of an address, with a dot at the end. ours is true for
// every address of the networks, whether or not somebody has it.
func (v *View) Reverse(a netip.Addr) (name string, ours bool) {
	a = a.Unmap()
	if name, ok := v.reverse[a]; ok {
		return name, true
	}
	for _, p := range v.subnets {
		if p.Contains(a) {
			return "", true
		}
	}
	return "", false
}
