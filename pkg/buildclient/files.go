package buildclient

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"strata/pkg/buildkit"
	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/buildkit/transfer"
	"strata/pkg/linux/xattr"
)

// fileSync sends directories.
type fileSync struct {
	sessionpb.UnimplementedFileSyncServer
	dirs map[string]string
}

// DiffCopy implements sessionpb.FileSyncServer.
func (s fileSync) DiffCopy(stream sessionpb.FileSync_DiffCopyServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context()) // none is no metadata
	name := strings.Join(buildkit.DecodeMetadata(md, buildkit.KeyDirName), "")
	dir, ok := s.dirs[name]
	if !ok {
		return status.Errorf(codes.NotFound, "no access allowed to dir %q", name)
	}
	d := &directory{root: dir}
	wanted := buildkit.DecodeMetadata(md, buildkit.KeyInclude)
	if follow := buildkit.DecodeMetadata(md, buildkit.KeyFollow); len(follow) > 0 {
		wanted = append(wanted, d.follow(follow)...)
	}
	for _, p := range wanted {
		d.wanted = append(d.wanted, strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/"))
	}
	if patterns := buildkit.DecodeMetadata(md, buildkit.KeyExclude); len(patterns) > 0 {
		var err error
		if d.ignored, err = patternmatcher.New(patterns); err != nil {
			return status.Errorf(codes.InvalidArgument, "exclude patterns: %v", err)
		}
	}
	return transfer.Send(stream.Context(), stream, d, nil)
}

// directory is what is sent of one. It implements transfer.Files.
type directory struct {
	root    string
	wanted  [][]string // paths and patterns, by component; none for everything
	ignored *patternmatcher.PatternMatcher
}

// Open implements transfer.Files.
func (d *directory) Open(name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(d.root, filepath.FromSlash(name)))
}

// walker is one run of Walk.
type walker struct {
	*directory
	say     func(*sessionpb.Stat) error
	pending []*sessionpb.Stat // directories that come only with something in them
}

// Walk implements transfer.Files.
func (d *directory) Walk(ctx context.Context, say func(*sessionpb.Stat) error) error {
	w := &walker{directory: d, say: say}
	return w.dir(ctx, "", len(d.wanted) == 0, patternmatcher.MatchInfo{})
}

// dir walks the directory rel ("" for the root); all says that everything in it is wanted.
func (w *walker) dir(ctx context.Context, rel string, all bool, above patternmatcher.MatchInfo) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	list, err := os.ReadDir(filepath.Join(w.root, filepath.FromSlash(rel)))
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := w.entry(ctx, path.Join(rel, e.Name()), e, all, above); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(ctx context.Context, name string, e fs.DirEntry, all bool, above patternmatcher.MatchInfo) error {
	if !all {
		var through bool
		if all, through = w.wants(name); !through {
			return nil
		}
	}
	out, info := false, patternmatcher.MatchInfo{}
	if w.ignored != nil {
		var err error
		if out, info, err = w.ignored.MatchesUsingParentResults(filepath.FromSlash(name), above); err != nil {
			return err
		}
		if out && (!e.IsDir() || !w.ignored.Exclusions()) {
			return nil
		}
	}
	st, err := w.stat(name, e)
	if st == nil || err != nil {
		return err
	}
	if !e.IsDir() {
		if !all {
			return nil // a pattern asks for something in it, and it is no directory
		}
		return w.tell(st)
	}
	w.pending = append(w.pending, st)
	if all && !out {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if err := w.dir(ctx, name, all, info); err != nil {
		return err
	}
	if n := len(w.pending); n > 0 && w.pending[n-1] == st { // nothing came of it
		w.pending = w.pending[:n-1]
	}
	return nil
}

// tell says a file, and the directories above it first.
func (w *walker) tell(st *sessionpb.Stat) error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.say(st)
}

func (w *walker) flush() error {
	for _, st := range w.pending {
		if err := w.say(st); err != nil {
			return err
		}
	}
	w.pending = nil
	return nil
}

// wants reports whether name is wanted with all in it, and whether something in it may be.
func (w *walker) wants(name string) (all, through bool) {
	parts := strings.Split(name, "/")
	for _, p := range w.wanted {
		if p[0] == "" {
			return true, true // the root
		}
		n := min(len(p), len(parts))
		if !slices.EqualFunc(p[:n], parts[:n], matches) {
			continue
		}
		through = true
		if len(parts) >= len(p) {
			return true, true
		}
	}
	return false, through
}

func matches(pattern, name string) bool {
	if pattern == name {
		return true
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

// stat describes a file; nil for what is no part of a context: sockets, pipes, devices.
func (w *walker) stat(name string, e fs.DirEntry) (*sessionpb.Stat, error) {
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it went while we walked
	}
	if err != nil {
		return nil, err
	}
	mode := info.Mode()
	if mode&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice|fs.ModeIrregular) != 0 {
		return nil, nil
	}
	st := &sessionpb.Stat{Path: name, Mode: uint32(mode), ModTime: info.ModTime().UnixNano()}
	switch {
	case mode.IsRegular():
		st.Size = info.Size()
		if err := addXattrs(st, filepath.Join(w.root, filepath.FromSlash(name))); err != nil {
			return nil, err
		}
	case mode&fs.ModeSymlink != 0:
		if st.Linkname, err = os.Readlink(filepath.Join(w.root, filepath.FromSlash(name))); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// addXattrs adds the extended attributes that belong to a file wherever it is.
func addXattrs(st *sessionpb.Stat, path string) error {
	found, err := xattr.OfName(path, xattr.Portable)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // its content will be missed, if it is wanted
	}
	for k, v := range found {
		if st.Xattrs == nil {
			st.Xattrs = map[string][]byte{}
		}
		st.Xattrs[k] = []byte(v)
	}
	return err
}

// maxFollowed bounds how many paths symlinks can lead to.
const maxFollowed = 10_000

// follow returns paths with those that symlinks on their way lead to, inside the directory.
func (d *directory) follow(paths []string) []string {
	f := &follower{d, map[string]bool{}, map[string]bool{}}
	for _, p := range paths {
		f.add(p)
	}
	out := make([]string, 0, len(f.found))
	for p := range f.found {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

type follower struct {
	*directory
	found map[string]bool
	seen  map[string]bool // paths that were looked at
}

// add finds what p means: p itself, or the symlink on its way, and where that leads.
func (f *follower) add(p string) {
	p = strings.Trim(path.Clean("/"+p), "/")
	if f.seen[p] || len(f.seen) > maxFollowed {
		return
	}
	f.seen[p] = true
	parts := strings.Split(p, "/")
	at := ""
	for i, part := range parts {
		for _, name := range f.expand(at, part) {
			target, err := os.Readlink(filepath.Join(f.root, filepath.FromSlash(name)))
			if err != nil {
				continue // no symlink, or not there
			}
			f.found[name] = true
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(name), target)
			}
			f.add(path.Join(target, strings.Join(parts[i+1:], "/")))
			if !hasMeta(part) {
				return
			}
		}
		at = path.Join(at, part)
	}
	f.found[at] = true
}

func hasMeta(s string) bool { return strings.ContainsAny(s, `*?[\`) }

// expand returns the names that a component, perhaps a pattern, means in a directory.
func (f *follower) expand(dir, part string) []string {
	if !hasMeta(part) {
		return []string{path.Join(dir, part)}
	}
	list, _ := os.ReadDir(filepath.Join(f.root, filepath.FromSlash(dir))) // none is no match
	var out []string
	for _, e := range list {
		if matches(part, e.Name()) {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	return out
}
