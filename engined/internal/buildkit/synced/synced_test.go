package synced

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/buildkit/transfer"
	"strata/pkg/linux/xattr"
)

var testLimits = Limits{Bytes: 1 << 30, Entries: 1000}

// pipe is a Stream in memory.
type pipe struct {
	in, out chan *sessionpb.Packet
	sent    *int64
}

func newPipe() (near, far *pipe, sent *int64) {
	a, b := make(chan *sessionpb.Packet, 64), make(chan *sessionpb.Packet, 64)
	sent = new(int64)
	return &pipe{a, b, nil}, &pipe{b, a, sent}, sent
}

func (p *pipe) Send(m *sessionpb.Packet) error {
	p.out <- proto.CloneOf(m)
	return nil
}

func (p *pipe) Recv() (*sessionpb.Packet, error) {
	m, ok := <-p.in
	if !ok {
		return nil, io.EOF
	}
	return m, nil
}

// dirFiles sends a directory.
type dirFiles struct {
	dir  string
	read *[]string

	mu sync.Mutex
}

func (d *dirFiles) Walk(_ context.Context, say func(*sessionpb.Stat) error) error {
	return filepath.WalkDir(d.dir, func(name string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(d.dir, name)
		if err != nil || rel == "." {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := &sessionpb.Stat{Path: rel, Mode: uint32(info.Mode()), ModTime: info.ModTime().UnixNano()}
		switch {
		case info.Mode().IsRegular():
			st.Size = info.Size()
			found, xerr := xattr.OfName(name, func(string) bool { return true })
			if xerr != nil {
				return xerr
			}
			for k, v := range found {
				st.Xattrs = map[string][]byte{k: []byte(v), "security.selinux": []byte("of the client's host")}
			}
		case info.Mode()&fs.ModeSymlink != 0:
			st.Linkname, err = os.Readlink(name)
		}
		return errors.Join(err, say(st))
	})
}

func (d *dirFiles) Open(name string) (io.ReadCloser, error) {
	d.mu.Lock()
	*d.read = append(*d.read, name)
	d.mu.Unlock()
	return os.Open(filepath.Join(d.dir, name))
}

// receive sends dir to the store, and returns the tree and which files were asked for.
func receive(t *testing.T, s *Store, key, dir string) (*Tree, []string) {
	t.Helper()
	near, far, _ := newPipe()
	var read []string
	ended := make(chan error, 1)
	go func() {
		err := transfer.Send(t.Context(), far, &dirFiles{dir: dir, read: &read}, nil)
		close(far.out)
		ended <- err
	}()
	tree, release, err := s.Receive(t.Context(), Key{Name: key, Description: "test " + key}, near, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	slices.Sort(read)
	return tree, read
}

func put(t *testing.T, dir string, texts map[string]string) {
	t.Helper()
	for name, text := range texts {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func text(t *testing.T, tree *Tree, name string) string {
	t.Helper()
	f, err := tree.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAttributesOfAFileTravel(t *testing.T) {
	s := Open(t.TempDir(), 1<<30, testLimits)
	dir := t.TempDir()
	put(t, dir, map[string]string{"a": "one", "b": "two"})
	if err := unix.Setxattr(filepath.Join(dir, "a"), "user.note", []byte("mine"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // sent, and kept
		tree, _ := receive(t, s, "k", dir)
		if got, err := tree.Xattrs("/a"); err != nil || !maps.Equal(got, map[string]string{"user.note": "mine"}) {
			t.Errorf("a has %v, %v", got, err)
		}
		if got, err := tree.Xattrs("/b"); err != nil || got != nil {
			t.Errorf("b has %v, %v", got, err)
		}
	}
	// Nothing of the content changes with them: nothing is sent again.
	if err := unix.Setxattr(filepath.Join(dir, "b"), "user.note", []byte("too"), 0); err != nil {
		t.Fatal(err)
	}
	tree, read := receive(t, s, "k", dir)
	if got, err := tree.Xattrs("/b"); err != nil || got["user.note"] != "too" || len(read) > 0 {
		t.Errorf("b has %v, %v; sent %q", got, err, read)
	}
	near, far, _ := newPipe()
	large := &sessionpb.Stat{Path: "x", Mode: 0o644, Size: 1, Xattrs: map[string][]byte{"user.a": make([]byte, maxAttrs)}}
	go func() { _ = far.Send(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_STAT, Stat: large}) }()
	if _, err := s.Once(t.Context(), near, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many attributes: %v", err)
	}
}

func TestOnlyWhatChangedIsSent(t *testing.T) {
	s := Open(t.TempDir(), 1<<30, testLimits)
	dir := t.TempDir()
	put(t, dir, map[string]string{"a.txt": "one", "d/b.txt": "two", "d-e": "three", "empty": ""})
	if err := os.Symlink("a.txt", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	tree, read := receive(t, s, "k", dir)
	if want := []string{"a.txt", "d-e", "d/b.txt", "empty"}; !slices.Equal(read, want) {
		t.Errorf("first build asked for %q, want %q", read, want)
	}
	names, err := tree.ReadDir("/")
	if want := []string{"a.txt", "d", "d-e", "empty", "link"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("names %q (%v), want %q", names, err, want)
	}
	if n, err := tree.Lstat("/link"); err != nil || n.Link != "a.txt" {
		t.Errorf("link %+v, %v", n, err)
	}
	again, read := receive(t, s, "k", dir)
	if len(read) > 0 {
		t.Errorf("a build in which nothing changed asked for %q", read)
	}
	put(t, dir, map[string]string{"d/b.txt": "TWO!"})
	third, read := receive(t, s, "k", dir)
	if !slices.Equal(read, []string{"d/b.txt"}) {
		t.Errorf("after one change %q was asked for", read)
	}
	for _, row := range []struct {
		tree *Tree
		want string
	}{{tree, "two"}, {again, "two"}, {third, "TWO!"}} {
		if got := text(t, row.tree, "/d/b.txt"); got != row.want {
			t.Errorf("content %q, want %q", got, row.want)
		}
	}
	if a, _ := again.Lstat("/a.txt"); a.Digest == [32]byte{} {
		t.Error("a file that was not sent again has no digest")
	}
	if _, read := receive(t, s, "other", dir); len(read) != 4 {
		t.Errorf("another key asked for %q", read)
	}
}

func TestSegmentsArePutTogether(t *testing.T) {
	root := t.TempDir()
	s := Open(root, 1<<30, testLimits)
	dir := t.TempDir()
	put(t, dir, map[string]string{"big": strings.Repeat("x", 1<<20)})
	for i := range 3 * maxSegments {
		put(t, dir, map[string]string{fmt.Sprint("f", i): fmt.Sprint("content ", i)})
		receive(t, s, "k", dir)
	}
	found, _ := filepath.Glob(filepath.Join(root, "*", "*"+segmentSuffix))
	if len(found) > maxSegments+1 {
		t.Errorf("%d segments are left", len(found))
	}
	tree, read := receive(t, s, "k", dir)
	if len(read) > 0 {
		t.Errorf("asked for %q", read)
	}
	for i := range 3 * maxSegments {
		if got := text(t, tree, fmt.Sprint("/f", i)); got != fmt.Sprint("content ", i) {
			t.Errorf("f%d has %q", i, got)
		}
	}
}

func TestBuildsOfOneKeySideBySide(t *testing.T) {
	s := Open(t.TempDir(), 1<<30, testLimits)
	dir := t.TempDir()
	put(t, dir, map[string]string{"a": "a", "b": "b"})
	receive(t, s, "k", dir)
	var wg sync.WaitGroup
	for i := range 8 {
		other := t.TempDir()
		put(t, other, map[string]string{"a": "a", fmt.Sprint("own", i): fmt.Sprint("text ", i)})
		wg.Go(func() {
			tree, _ := receive(t, s, "k", other)
			if got := text(t, tree, fmt.Sprint("/own", i)); got != fmt.Sprint("text ", i) {
				t.Errorf("build %d has %q", i, got)
			}
		})
	}
	wg.Wait()
	tree, _ := receive(t, s, "k", dir)
	if text(t, tree, "a") != "a" || text(t, tree, "b") != "b" {
		t.Error("content was lost")
	}
}

func TestTheLeastRecentlyUsedKeyGoes(t *testing.T) {
	s := Open(t.TempDir(), 3<<20, testLimits)
	for i := range 4 {
		dir := t.TempDir()
		put(t, dir, map[string]string{"big": strings.Repeat("x", 1<<20)})
		near, far, _ := newPipe()
		var read []string
		go func() {
			_ = transfer.Send(t.Context(), far, &dirFiles{dir: dir, read: &read}, nil)
			close(far.out)
		}()
		_, release, err := s.Receive(t.Context(), Key{Name: fmt.Sprint(i), Description: fmt.Sprint(i)}, near, nil)
		if err != nil {
			t.Fatal(err)
		}
		release()
		// mtimes are what tells keys apart
		at := time.Now().Add(time.Duration(i-10) * time.Second)
		if err := os.Chtimes(filepath.Join(s.dir, Key{Name: fmt.Sprint(i)}.id(), indexFile), at, at); err != nil {
			t.Fatal(err)
		}
	}
	left, err := s.Usage()
	if err != nil || len(left) != 2 || left[0].Description != "2" || left[1].Description != "3" {
		t.Errorf("left: %+v (%v)", left, err)
	}
	removed, err := s.Remove(left[0].ID)
	if left, _ := s.Usage(); err != nil || !removed || len(left) != 1 {
		t.Errorf("after Remove: %+v (%v)", left, err)
	}
}

func stat(name string, mode fs.FileMode, size int64, link string) *sessionpb.Packet {
	return &sessionpb.Packet{Type: sessionpb.Packet_PACKET_STAT, Stat: &sessionpb.Stat{Path: name, Mode: uint32(mode), Size: size, Linkname: link}}
}

func TestClientsThatBreakTheProtocolAreRefused(t *testing.T) {
	end := &sessionpb.Packet{Type: sessionpb.Packet_PACKET_STAT}
	data := func(id uint32, s string) *sessionpb.Packet {
		return &sessionpb.Packet{Type: sessionpb.Packet_PACKET_DATA, ID: id, Data: []byte(s)}
	}
	for _, row := range []struct {
		name  string
		sent  []*sessionpb.Packet
		class func(error) bool
	}{
		{"a name above the root", []*sessionpb.Packet{stat("../x", 0, 1, "")}, errdefs.IsInvalidArgument},
		{"an absolute name", []*sessionpb.Packet{stat("/x", 0, 1, "")}, errdefs.IsInvalidArgument},
		{"a name that is not clean", []*sessionpb.Packet{stat("a//b", 0, 1, "")}, errdefs.IsInvalidArgument},
		{"names out of order", []*sessionpb.Packet{stat("b", 0, 0, ""), stat("a", 0, 0, "")}, errdefs.IsInvalidArgument},
		{"a name twice", []*sessionpb.Packet{stat("b", 0, 0, ""), stat("b", 0, 0, "")}, errdefs.IsInvalidArgument},
		{"no directory", []*sessionpb.Packet{stat("a/b", 0, 0, "")}, errdefs.IsInvalidArgument},
		{"a file as a directory", []*sessionpb.Packet{stat("a", 0, 0, ""), stat("a/b", 0, 0, "")}, errdefs.IsInvalidArgument},
		{"a file behind a symlink", []*sessionpb.Packet{stat("a", fs.ModeSymlink, 0, "/etc"), stat("a/b", 0, 0, "")}, errdefs.IsInvalidArgument},
		{"content that nobody asked for", []*sessionpb.Packet{data(7, "x")}, errdefs.IsInvalidArgument},
		{"a link to what is not there", []*sessionpb.Packet{stat("a", 0, 0, "b"), end, {Type: sessionpb.Packet_PACKET_FIN}}, errdefs.IsInvalidArgument},
		{"too large", []*sessionpb.Packet{stat("a", 0, 1<<40, "")}, errdefs.IsResourceExhausted},
		{"a negative size", []*sessionpb.Packet{stat("a", 0, -1, "")}, errdefs.IsInvalidArgument},
		{"no content", []*sessionpb.Packet{stat("a", 0, 5, ""), data(0, "")}, errdefs.IsInvalidArgument},
		{"an end in the middle", []*sessionpb.Packet{stat("a", 0, 5, ""), end, {Type: sessionpb.Packet_PACKET_FIN}}, errdefs.IsInvalidArgument},
		{"breaking off", []*sessionpb.Packet{stat("a", 0, 5, "")}, errdefs.IsUnavailable},
		{"an error of its own", []*sessionpb.Packet{{Type: sessionpb.Packet_PACKET_ERR, Data: []byte("no")}}, errdefs.IsInvalidArgument},
	} {
		t.Run(row.name, func(t *testing.T) {
			near, far, _ := newPipe()
			for _, p := range row.sent {
				far.out <- p
			}
			close(far.out)
			root := t.TempDir()
			_, _, err := Open(root, 1<<30, testLimits).Receive(t.Context(), Key{Name: "k"}, near, nil)
			if !row.class(err) {
				t.Errorf("error %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(root, "*", "*"+segmentSuffix)); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

func TestIndexOfAnotherBootOrBrokenIsOfNoUse(t *testing.T) {
	x := &index{description: "d", entries: []entry{{name: "a", size: 3, segment: "s.seg", offset: 7, mtime: -5}, {name: "b", mode: fs.ModeSymlink, link: "a"}}}
	raw := x.encode()
	got, err := decodeIndex(raw)
	if err != nil || !slices.Equal(got.entries, x.entries) || got.description != "d" {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range raw {
		broken := slices.Clone(raw)
		broken[i] ^= 0x40
		if _, err := decodeIndex(broken); !errdefs.IsDataLoss(err) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
}

func FuzzReceive(f *testing.F) {
	add := func(list ...*sessionpb.Packet) {
		var raw []byte
		for _, p := range list {
			one, err := proto.Marshal(p)
			if err != nil {
				f.Fatal(err)
			}
			raw = append(append(raw, byte(len(one)), byte(len(one)>>8)), one...)
		}
		f.Add(raw)
	}
	add(stat("a", fs.ModeDir, 0, ""), stat("a/b", 0, 3, ""), &sessionpb.Packet{Type: sessionpb.Packet_PACKET_STAT},
		&sessionpb.Packet{Type: sessionpb.Packet_PACKET_DATA, ID: 1, Data: []byte("abc")}, &sessionpb.Packet{Type: sessionpb.Packet_PACKET_DATA, ID: 1}, &sessionpb.Packet{Type: sessionpb.Packet_PACKET_FIN})
	add(stat("a", 0, 1, ""), stat("b", 0, 0, "a"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		near, far, _ := newPipe()
		go func() {
			for range far.in { // whatever is asked for
			}
		}()
		var list []*sessionpb.Packet
		for len(raw) >= 2 {
			n := int(raw[0]) | int(raw[1])<<8
			raw = raw[2:]
			n = min(n, len(raw))
			p := &sessionpb.Packet{}
			if proto.Unmarshal(raw[:n], p) == nil {
				list = append(list, p)
			}
			raw = raw[n:]
		}
		go func() {
			for _, p := range list {
				far.out <- p
			}
			close(far.out)
		}()
		s := Open(filepath.Join(dir, "s"), 1<<20, Limits{Bytes: 1 << 16, Entries: 50})
		tree, err := s.Once(t.Context(), near, nil)
		close(near.out)
		for range near.in { // let the sender end
		}
		if err != nil {
			return
		}
		for i := range tree.entries {
			name := tree.entries[i].name
			if _, err := tree.Lstat(name); err != nil {
				t.Errorf("%q is in the list but not there", name)
			}
			if tree.entries[i].mode.IsRegular() {
				if f, err := tree.Open(name); err == nil {
					if data, err := io.ReadAll(f); err != nil || int64(len(data)) != tree.entries[i].size {
						t.Errorf("%q: %d bytes of %d (%v)", name, len(data), tree.entries[i].size, err)
					}
				}
			}
		}
		_ = tree.Close()
	})
}
