// Package strata_test checks that the tree is what ARCHITECTURE.md says: who may import
// whom, that the walk leads through code that exists, and that every package introduces
// itself.
package strata_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// room is a part of the tree and what of the tree it may import. "+/" stands for itself.
type room struct {
	prefix  string
	imports []string
}

// rooms are looked through in order; the first that fits a package counts.
var rooms = []room{
	{"cmd/engined", []string{"engined", "pkg/"}},
	{"cmd/supervisord", []string{"supervisord", "pkg/"}},
	{"cmd/shim", []string{"shim", "pkg/"}},
	{"cmd/ocirun", []string{"ocirun", "pkg/"}},
	{"cmd/", []string{"cmd/engine", "pkg/"}},
	{"engined", []string{"engined", "proto/", "pkg/"}},
	{"supervisord", []string{"supervisord", "proto/", "pkg/"}},
	{"shim", []string{"shim", "proto/", "pkg/"}},
	{"ocirun", []string{"ocirun", "pkg/"}},
	{"proto", []string{"proto/"}},
	{"pkg/", []string{"pkg/"}},
	{"integration", []string{"integration"}},
}

// ban is a rule about imports from outside.
type ban struct {
	name    string
	applies func(pkg string) bool
	imports []string // prefixes
	except  []string
}

var bans = []ban{
	{
		"ocirun-speaks-no-rpc",
		func(pkg string) bool { return within(pkg, "ocirun") || pkg == "cmd/ocirun" },
		[]string{"google.golang.org/", "github.com/containerd/ttrpc", "go.etcd.io/bbolt", "github.com/urfave/cli", "strata/pkg/rpc"},
		nil,
	},
	{
		"shim-stays-small",
		func(pkg string) bool { return within(pkg, "shim") || pkg == "cmd/shim" },
		[]string{"google.golang.org/grpc", "go.etcd.io/bbolt", "github.com/prometheus/", "net/http", "github.com/godbus/"},
		[]string{"google.golang.org/grpc/codes", "google.golang.org/grpc/status"}, // ttrpc's errors are made of them
	},
	{
		"engined-speaks-grpc-to-the-supervisor-and-to-builders",
		func(pkg string) bool {
			return within(pkg, "engined") && pkg != "engined/internal/supervisor" && !within(pkg, "engined/internal/buildkit")
		},
		[]string{"github.com/containerd/containerd/api", "strata/proto", "google.golang.org/grpc"},
		nil,
	},
	{
		"the-cli-speaks-only-the-engine-api",
		func(pkg string) bool { return pkg == "cmd/engine" },
		[]string{"google.golang.org/grpc", "github.com/containerd/containerd", "go.etcd.io/bbolt"},
		nil,
	},
}

func within(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

type file struct {
	pkg, name string
	syntax    *ast.File
}

func files(t *testing.T) []file {
	t.Helper()
	var out []file
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		syntax, err := parser.ParseFile(fset, name, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, file{filepath.ToSlash(filepath.Dir(name)), name, syntax})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDaemonsMeetOnlyOnTheWire(t *testing.T) {
	for _, f := range files(t) {
		if f.pkg == "." || strings.HasSuffix(f.name, "_test.go") && within(f.pkg, "integration") {
			continue
		}
		i := slices.IndexFunc(rooms, func(r room) bool {
			return within(f.pkg, strings.TrimSuffix(r.prefix, "/"))
		})
		if i < 0 {
			t.Errorf("%s: no room for package %s", f.name, f.pkg)
			continue
		}
		for _, imp := range imports(t, f) {
			own, ok := strings.CutPrefix(imp, "strata/")
			if !ok {
				continue
			}
			if !slices.ContainsFunc(rooms[i].imports, func(p string) bool { return within(own, strings.TrimSuffix(p, "/")) }) {
				t.Errorf("%s imports %s; %s may import %q", f.name, imp, rooms[i].prefix, rooms[i].imports)
			}
		}
	}
}

func TestBannedImports(t *testing.T) {
	for _, f := range files(t) {
		if strings.HasSuffix(f.name, "_test.go") {
			continue
		}
		for _, b := range bans {
			if !b.applies(f.pkg) {
				continue
			}
			for _, imp := range imports(t, f) {
				if slices.ContainsFunc(b.imports, func(p string) bool { return strings.HasPrefix(imp, p) }) && !slices.Contains(b.except, imp) {
					t.Errorf("%s: %s imports %s", b.name, f.name, imp)
				}
			}
		}
	}
}

func imports(t *testing.T, f file) []string {
	t.Helper()
	var out []string
	for _, spec := range f.syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestEveryPackageIntroducesItself(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range files(t) {
		if strings.HasSuffix(f.name, "_test.go") || strings.HasPrefix(f.pkg, "proto/strata") {
			continue
		}
		documented[f.pkg] = documented[f.pkg] || f.syntax.Doc != nil
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// A row of the walk: | n | [file](file) | `Func`, `Func` | what one sees |.
var walkRow = regexp.MustCompile(`(?m)^\| \d+ \| \[([^]]+)\]\([^)]+\) \| ([^|]+) \|`)

func TestTheWalkLeadsThroughCodeThatExists(t *testing.T) {
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := walkRow.FindAllStringSubmatch(string(page), -1)
	if len(rows) < 9 {
		t.Fatalf("ARCHITECTURE.md has %d rows of the walk, want 9", len(rows))
	}
	for _, row := range rows {
		src, err := os.ReadFile(path.Clean(row[1]))
		if err != nil {
			t.Errorf("the walk: %v", err)
			continue
		}
		for name := range strings.SplitSeq(row[2], ",") {
			name = strings.Trim(strings.TrimSpace(name), "`")
			if !regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + regexp.QuoteMeta(name) + `\(`).Match(src) {
				t.Errorf("the walk: %s has no function %s", row[1], name)
			}
		}
	}
}
