package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strata/integration/harness"
)

// sample is a Dockerfile that both builders build.
type sample struct {
	name  string
	text  string
	files map[string]string // those whose name ends with @ are symlinks
	args  []string
	// differs says why something is not the same: by "config", "history", or a file's name.
	differs map[string]string
	// fails: neither builds it.
	fails bool
	// stricter says why ours fails alone, newer why the stock builder does.
	stricter, newer string
}

// image is what an archive says of an image.
type image struct {
	Config  map[string]any
	History []string
	Files   map[string]string // by name: type, permissions, owner, content
}

// saved reads an archive of docker save.
func saved(t *testing.T, archive []byte) image {
	t.Helper()
	all := map[string][]byte{}
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeSymlink { // 20.10 names a layer that it has written twice so
			all[h.Name] = all[path.Join(path.Dir(h.Name), h.Linkname)]
		}
	}
	var list []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(all["manifest.json"], &list); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Config  map[string]any
		History []struct {
			CreatedBy string `json:"created_by"`
			Empty     bool   `json:"empty_layer"`
		}
	}
	if err := json.Unmarshal(all[list[0].Config], &doc); err != nil {
		t.Fatal(err)
	}
	img := image{Config: doc.Config, Files: map[string]string{}}
	for _, h := range doc.History {
		if h.CreatedBy == "" || strings.HasPrefix(h.CreatedBy, "from local") || strings.HasPrefix(h.CreatedBy, "mount / from") || h.CreatedBy == "fileop target" {
			continue // the base has no history, which 20.10 makes up for at the wrong end
		}
		img.History = append(img.History, fmt.Sprintf("%s [empty %v]", h.CreatedBy, h.Empty))
	}
	for _, l := range list[0].Layers {
		img.apply(t, all[l])
	}
	for k, v := range img.Config { // what is not set may be left out
		if v == nil || v == "" || v == false {
			delete(img.Config, k)
		}
	}
	return img
}

// apply puts a layer upon the files.
func (i *image) apply(t *testing.T, layer []byte) {
	t.Helper()
	var r io.Reader = bytes.NewReader(layer)
	if zr, err := gzip.NewReader(bytes.NewReader(layer)); err == nil {
		r = zr
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := path.Clean("/" + h.Name)
		if gone, ok := strings.CutPrefix(path.Base(name), ".wh."); ok {
			i.remove(path.Join(path.Dir(name), gone))
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%c %04o %d:%d", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid)
		switch h.Typeflag {
		case tar.TypeReg:
			text += fmt.Sprintf(" %d bytes %x", len(data), sha256.Sum256(data))[:30]
		case tar.TypeSymlink:
			text += " -> " + h.Linkname
		case tar.TypeLink:
			text = i.Files[path.Clean("/"+h.Linkname)]
		}
		i.Files[name] = text
	}
}

func (i *image) remove(name string) {
	for f := range i.Files {
		if f == name || strings.HasPrefix(f, name+"/") {
			delete(i.Files, f)
		}
	}
}

// context writes a sample's files into a directory.
func (s *sample) context(t *testing.T) string {
	t.Helper()
	plain := map[string]string{"Dockerfile": s.text}
	for k, v := range s.files {
		if !strings.HasSuffix(k, "@") {
			plain[k] = v
		}
	}
	dir := project(t, plain)
	for k, v := range s.files {
		if link, ok := strings.CutSuffix(k, "@"); ok {
			if err := os.Symlink(v, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// TestStockBuilderMakesTheSame builds each sample with Debian's dockerd (its BuildKit) and
// with ours, and compares the images' configuration, history and files.
func TestStockBuilderMakesTheSame(t *testing.T) {
	if _, err := os.Stat(stockClient); err != nil {
		t.Fatalf("%v: .ci/deps installs docker.io", err)
	}
	s := harness.New(t)
	s.LoadBusybox()
	stock := stockDocker(t, s)
	if r := s.Run(stock("load", "-q", "-i", s.BusyboxArchive())); r.Code != 0 {
		t.Fatalf("load: %+v", r)
	}
	for _, row := range samples {
		t.Run(row.name, func(t *testing.T) { row.compare(t, s.For(t), stock) })
	}
}

func (row *sample) compare(t *testing.T, s *harness.Stack, stock stockCommand) {
	dir := row.context(t)
	args := append(append([]string{"build", "-t", "sample:1"}, row.args...), dir)
	theirs := s.Run(stock(args...))
	cmd := s.Command("docker", args...)
	cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT=0")
	ours := s.Run(cmd)
	if row.fails {
		if theirs.Code == 0 || ours.Code == 0 {
			t.Errorf("exit codes: stock %d, ours %d\n%s", theirs.Code, ours.Code, ours.Stdout+ours.Stderr)
		}
		t.Logf("stock: %s\nours: %s", lastLine(theirs.Stderr), lastLine(ours.Stdout+ours.Stderr))
		return
	}
	if row.stricter != "" || row.newer != "" {
		if theirs.Code == 0 != (row.stricter != "") || ours.Code == 0 != (row.newer != "") {
			t.Errorf("exit codes: stock %d, ours %d", theirs.Code, ours.Code)
		}
		return
	}
	if theirs.Code != 0 || ours.Code != 0 {
		t.Fatalf("stock: exit code %d\n%s\nours: exit code %d\n%s", theirs.Code, theirs.Stderr, ours.Code, ours.Stdout+ours.Stderr)
	}
	read := func(r harness.Result) image {
		if r.Code != 0 {
			t.Fatalf("save: %s", r.Stderr)
		}
		return saved(t, []byte(r.Stdout))
	}
	want, got := read(s.Run(stock("save", "sample:1"))), read(s.Docker("save", "sample:1"))
	row.diff(t, "config", fmt.Sprint(sorted(want.Config)), fmt.Sprint(sorted(got.Config)))
	row.diff(t, "history", strings.Join(want.History, "\n"), strings.Join(got.History, "\n"))
	for _, name := range slices.Sorted(maps.Keys(want.Files)) {
		row.diff(t, name, want.Files[name], got.Files[name])
	}
	for _, name := range slices.Sorted(maps.Keys(got.Files)) {
		if _, ok := want.Files[name]; !ok {
			row.diff(t, name, "", got.Files[name])
		}
	}
}

// sorted is a configuration whose lists that have no order are in one.
func sorted(config map[string]any) string {
	raw, err := json.MarshalIndent(config, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

func (row *sample) diff(t *testing.T, what, want, got string) {
	t.Helper()
	reason, known := row.differs[what]
	switch {
	case want != got && !known:
		t.Errorf("%s differs:\nstock: %s\nours:  %s", what, want, got)
	case want == got && known:
		t.Errorf("%s is the same, though %s", what, reason)
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
