package buildkit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/engined/internal/build"
	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/cleanup"
)

// requestOf reads attributes with a Dockerfile from nowhere.
func requestOf(t *testing.T, attrs map[string]string, solve *controlpb.SolveRequest) (build.Request, error) {
	t.Helper()
	j := &job{req: solve, story: newStory("test"), s: &Service{}}
	var undo cleanup.Stack
	defer undo.Clean()
	req, err := j.request(t.Context(), &result{attrs: attrs}, &undo)
	if err != nil && strings.Contains(err.Error(), errNoSession.Error()) {
		err = nil // all attributes were read; only the files are missing
	}
	return req, err
}

func TestAttributesBecomeARequest(t *testing.T) {
	req, err := requestOf(t, map[string]string{
		"target": "t", "build-arg:A": "1", "build-arg:B": "", "label:l": "v", "platform": "linux/arm64,linux/amd64/v1", "no-cache": "one,two",
		"image-resolve-mode": "pull", "add-hosts": "a=1.2.3.4,b=::1", "shm-size": "1048576", "ulimit": "nofile=1:2,core=0", "force-network-mode": "host",
		"cgroup-parent": "/p", "memory": "1024", "cpusetcpus": "0", "attest:provenance": "mode=min,builder-id=me,version=v0.2,inline-only=true", "vcs:revision": "abc",
		"cache-imports": `[{"Type":"registry","Attrs":{"ref":"r"}}]`, "cache-from": "q", "context:base": "docker-image://x", "context:dir": "local:dir",
		"context:plain": "docker-image:y", "context:layout": "oci-layout:store:tag", "hostname": "h", "build-arg:BUILDKIT_SANDBOX_HOSTNAME": "wins",
	}, &controlpb.SolveRequest{
		Entitlements: []string{"network.host"},
		Cache:        &controlpb.CacheOptions{Imports: []*controlpb.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "r"}}}, Exports: []*controlpb.CacheOptionsEntry{{Type: "inline"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if req.Target != "t" || !reflect.DeepEqual(req.Args, map[string]string{"A": "1", "B": "", "BUILDKIT_SANDBOX_HOSTNAME": "wins"}) || req.Labels["l"] != "v" || !req.Pull || req.NoCache || !slices.Equal(req.NoCacheFilter, []string{"one", "two"}) {
		t.Errorf("%+v", req)
	}
	if len(req.Platforms) != 2 || req.Platforms[0].Architecture != "arm64" || req.Platforms[1].Variant != "" && req.Platforms[1].Variant != "v1" {
		t.Errorf("platforms %+v", req.Platforms)
	}
	want := container.Resources{CgroupParent: "/p", Memory: 1024, CpusetCpus: "0", Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}, {Name: "core"}}}
	if !reflect.DeepEqual(req.Resources, want) || req.ShmSize != 1<<20 || req.Network != "host" || !slices.Equal(req.ExtraHosts, []string{"a:1.2.3.4", "b:::1"}) {
		t.Errorf("commands: %+v", req)
	}
	if req.Provenance.Mode != "min" || req.Provenance.Version != "v0.2" || !req.Provenance.InlineOnly || req.Provenance.BuilderID != "me" || req.Provenance.SBOM || req.Provenance.Attrs["vcs:revision"] != "abc" {
		t.Errorf("provenance %+v", req.Provenance)
	}
	if len(req.CacheFrom) != 2 || req.CacheFrom[0].Attrs["ref"] != "r" || req.CacheFrom[1].Attrs["ref"] != "q" || len(req.CacheTo) != 1 || req.CacheTo[0].Type != "inline" {
		t.Errorf("caches %+v, %+v", req.CacheFrom, req.CacheTo)
	}
	if req.Named["base"].Ref != "docker-image://x" || req.Named["dir"].Source == nil || req.Named["plain"].Ref != "docker-image://y" || req.Named["layout"].Ref != "oci-layout://store:tag" {
		t.Errorf("contexts %+v", req.Named)
	}
	if req.Hostname != "wins" {
		t.Errorf("host name %q", req.Hostname)
	}
	if all, err := requestOf(t, map[string]string{"attest:provenance": ""}, &controlpb.SolveRequest{}); err != nil || all.Provenance.Mode != "max" {
		t.Errorf("provenance without a word: %+v, %v", all.Provenance, err)
	}
	if all, err := requestOf(t, map[string]string{"no-cache": "", "attest:provenance": "disabled=true"}, &controlpb.SolveRequest{}); err != nil || !all.NoCache || all.Provenance.Mode != "" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestAttributesThatCannotBeReadAreRefused(t *testing.T) {
	for _, attrs := range []map[string]string{
		{"platform": "a/b/c/d/e"},
		{"add-hosts": "a"},
		{"add-hosts": "a=b"},
		{"shm-size": "x"},
		{"ulimit": "x"},
		{"memory": "1g"},
		{"attest:provenance": "mode=all"},
		{"cache-imports": "{"},
		{"context:x": "nothing"},
	} {
		if _, err := requestOf(t, attrs, &controlpb.SolveRequest{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", attrs, err)
		}
	}
}

func TestADirectoryMayBeOfAnotherSession(t *testing.T) {
	j := &job{req: &controlpb.SolveRequest{}, s: &Service{}}
	in := &inputs{j: j, r: &result{attrs: map[string]string{"local-sessionid:dir": "elsewhere"}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := in.sessionOf(ctx, "dir"); err == nil || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("the other session was not asked for: %v", err)
	}
	if _, err := in.sessionOf(ctx, "context"); !errors.Is(err, errNoSession) {
		t.Errorf("the build's own: %v", err)
	}
}

func TestAContextMayBeADirectoryOfAnArchive(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"sub/Dockerfile": "FROM a", "sub/file": "below", "sub/.dockerignore": "x\n", "Dockerfile": "not this"} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := files.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	in := &inputs{j: &job{req: &controlpb.SolveRequest{}, s: &Service{}}, r: &result{attrs: map[string]string{attrSubdir: "sub"}}}
	var req build.Request
	if err := in.parted(t.Context(), tree, &req); err != nil || string(req.Dockerfile.Text) != "FROM a" || string(req.Dockerfile.Ignore) != "x\n" {
		t.Fatalf("%+v, %v", req.Dockerfile, err)
	}
	got, err := req.Context.Files(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := files.ReadFile(got, "file", 100); err != nil || string(text) != "below" {
		t.Errorf("%q, %v", text, err)
	}
	in.r.attrs[attrSubdir] = "nosuch"
	if err := in.parted(t.Context(), tree, &req); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestAPolicyThatIsNotAppliedIsRefused(t *testing.T) {
	for name, req := range map[string]*controlpb.SolveRequest{
		"in the request": {SourcePolicy: []byte("rules"), Frontend: frontendDockerfile},
		"of a session":   {SourcePolicySession: "s", Frontend: frontendDockerfile},
	} {
		j := &job{req: req, story: newStory("test"), s: &Service{}}
		if _, _, err := j.run(t.Context()); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "source policy") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyDirectoriesAndResultsAreInputs(t *testing.T) {
	def := func(ops ...*controlpb.Op) *controlpb.Definition {
		d := &controlpb.Definition{}
		for _, op := range ops {
			raw, err := proto.Marshal(op)
			if err != nil {
				t.Fatal(err)
			}
			d.Def = append(d.Def, raw)
		}
		return d
	}
	local := &controlpb.Op{Source: &controlpb.SourceOp{Identifier: "local://dir"}}
	end := &controlpb.Op{Inputs: []*controlpb.Input{{Digest: "sha256:x"}}}
	if scheme, dir, err := sourceOf(def(local, end)); err != nil || scheme != schemeLocal || dir != "dir" {
		t.Errorf("%q, %q, %v", scheme, dir, err)
	}
	result, err := resultDefinition("id")
	if err != nil {
		t.Fatal(err)
	}
	if scheme, id, err := sourceOf(result); err != nil || scheme != schemeResult || id != "id" {
		t.Errorf("%q, %q, %v", scheme, id, err)
	}
	for name, d := range map[string]*controlpb.Definition{
		"nothing": def(), "an image": def(&controlpb.Op{Source: &controlpb.SourceOp{Identifier: "docker-image://x"}}, end), "two sources": def(local, local, end), "a command": def(&controlpb.Op{Inputs: []*controlpb.Input{{Digest: "sha256:x"}, {Digest: "sha256:y"}}}, end),
	} {
		if _, _, err := sourceOf(d); !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := sourceOf(&controlpb.Definition{Def: [][]byte{{0xff, 1, 2}}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("noise: %v", err)
	}
}

func TestNamesSayTheStageAndThePlaceInIt(t *testing.T) {
	base := &dockerfile.Vertex{Image: &dockerfile.Base{Name: "busybox", ID: "sha256:1"}, Stage: "make", Lines: [2]int{1, 1}}
	run := &dockerfile.Vertex{Parent: base, Run: &dockerfile.Run{}, Name: "RUN x", Stage: "make", Lines: [2]int{2, 2}}
	foreign := &dockerfile.Vertex{Image: &dockerfile.Base{Name: "alpine:3"}, Stage: "stage-1"}
	empty := &dockerfile.Vertex{Stage: "stage-1", Lines: [2]int{3, 3}}
	put := &dockerfile.Vertex{Parent: empty, Copy: &dockerfile.Copy{From: run}, Name: "COPY x", Stage: "stage-1", Lines: [2]int{4, 4}}
	got := namesOf([]*dockerfile.Plan{{Vertices: []*dockerfile.Vertex{base, run, foreign, empty, put}}})
	for v, want := range map[*dockerfile.Vertex]string{
		base: "[make 1/2] FROM docker.io/library/busybox:latest@sha256:1", run: "[make 2/2] RUN x", foreign: "FROM docker.io/library/alpine:3", put: "[stage-1 1/1] COPY x",
	} {
		if got[v] != want {
			t.Errorf("%q, want %q", got[v], want)
		}
	}
	if alone := namesOf([]*dockerfile.Plan{{Vertices: []*dockerfile.Vertex{empty, put}}}); alone[put] != "[1/1] COPY x" {
		t.Errorf("a stage alone and without a name: %q", alone[put])
	}
}

func TestErrorsSayWhereInTheDockerfile(t *testing.T) {
	j := &job{story: newStory("test")}
	j.story.begin(build.Definition{Name: "Dockerfile", Text: []byte("FROM a\nRUN b\nRUN c\n")})
	err := j.explain(t.Context(), &build.StepError{Step: "RUN b", Lines: [2]int{2, 2}, Err: &build.CommandError{Command: "/bin/sh -c b", Code: 3}})
	if status.Code(err) != codes.Unknown || status.Convert(err).Message() != `process "/bin/sh -c b" did not complete successfully: exit code: 3` {
		t.Errorf("%v", err)
	}
	d := buildkit.DetailsOf(err)
	if d.Exit != 3 || len(d.Sources) != 1 {
		t.Fatalf("details %+v", d)
	}
	want := "Dockerfile:2\n--------------------\n   1 |     FROM a\n   2 | >>> RUN b\n   3 |     RUN c\n--------------------\n"
	if got := d.Sources[0].Excerpt(); got != want {
		t.Errorf("excerpt\n%s\nwant\n%s", got, want)
	}
}

func TestStoriesAreToldFromTheBeginning(t *testing.T) {
	s := newStory("test")
	v := &dockerfile.Vertex{Name: "RUN x", Run: &dockerfile.Run{}, Stage: "stage-0"}
	s.Planned([]*dockerfile.Plan{{Vertices: []*dockerfile.Vertex{v}}})
	s.Started(v, "")
	s.Output(v, []byte("one\n"), false)
	s.Ended(v, build.Ending{Key: "k"})
	s.end()
	for range 2 {
		var text []byte
		var last *controlpb.Vertex
		err := s.follow(t.Context(), func(e *controlpb.StatusResponse) error {
			for _, l := range e.Logs {
				text = append(text, l.Msg...)
			}
			for _, x := range e.Vertexes {
				last = x
			}
			return nil
		})
		if err != nil || string(text) != "one\n" || last.GetName() != "[1/1] RUN x" || last.GetCompleted() == nil {
			t.Errorf("%q, %v, %v", text, last, err)
		}
	}
}

// FuzzDetails: what a daemon says of an error is taken apart without harm.
func FuzzDetails(f *testing.F) {
	f.Add("github.com/moby/buildkit/errdefs.Source+json", []byte(`{"info":{"filename":"D","data":"QQ=="},"ranges":[{"start":{"line":1},"end":{"line":9}}]}`))
	f.Add("github.com/moby/buildkit/errdefs.Source+json", []byte(`{"info":{},"ranges":[{"start":{"line":-1},"end":{"line":99999999}}]}`))
	f.Fuzz(func(_ *testing.T, url string, value []byte) {
		for _, s := range buildkit.DetailsOf(status.FromProto(statusOf(url, value)).Err()).Sources {
			_ = s.Excerpt()
		}
	})
}

// FuzzDefinition: a client's definition is read without harm.
func FuzzDefinition(f *testing.F) {
	d, err := resultDefinition("x")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.Def[0], d.Def[1])
	f.Fuzz(func(_ *testing.T, a, b []byte) {
		_, _, _ = sourceOf(&controlpb.Definition{Def: [][]byte{a, b}})
	})
}

func statusOf(url string, value []byte) *spb.Status {
	return &spb.Status{Code: int32(codes.Unknown), Message: "x", Details: []*anypb.Any{{TypeUrl: url, Value: value}}}
}

func TestABuildThatIsOverAtOnceCanBeAskedAbout(t *testing.T) {
	s := &Service{jobs: map[string]*job{}}
	req := &controlpb.SolveRequest{Ref: "x"}
	j, _, err := s.begin(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.begin(t.Context(), req); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second build of one reference: %v", err)
	}
	s.end(j)
	if s.known("x") != j || len(s.running()) != 0 {
		t.Error("the build is not known, or runs")
	}
	if _, _, err := s.begin(t.Context(), req); err != nil {
		t.Errorf("the reference is not free: %v", err)
	}
}

func TestDefinitionsThatOnlyFetchAreUnderstood(t *testing.T) {
	end := &controlpb.Op{Inputs: []*controlpb.Input{{Digest: "sha256:x"}}}
	for _, row := range []struct {
		id    string
		attrs map[string]string
		want  remote // zero for none
	}{
		{"git://h/r.git#v1:dir", map[string]string{"git.fullurl": "https://h/r.git", "git.authtokensecret": "GIT_AUTH_TOKEN"}, remote{url: "https://h/r.git#v1:dir"}},
		{"git://h/r.git", map[string]string{"git.fullurl": "https://h/r.git", "git.keepgitdir": "true"}, remote{url: "https://h/r.git?keep-git-dir=true"}},
		{"git://h/r.git#v1", map[string]string{"git.fullurl": "https://h/r.git", "git.checksum": "abc"}, remote{url: "https://h/r.git?checksum=abc#v1"}},
		{"git://h/r.git", map[string]string{"git.fullurl": "git@h:r.git"}, remote{url: "git@h:r.git"}},
		{"git://h/r.git", map[string]string{"git.fullurl": "git@h:r.git", "git.skipsubmodules": "true"}, remote{}},
		{"git://h/r.git", map[string]string{"git.sig.pubkey": "x"}, remote{}},
		{"https://h/f", map[string]string{"http.filename": "Dockerfile"}, remote{url: "https://h/f", file: "Dockerfile"}},
		{"https://h/f", map[string]string{"http.filename": "Dockerfile", "http.checksum": "x"}, remote{}},
		{"docker-image://x", nil, remote{}},
		{"local://x", nil, remote{}},
	} {
		source, err := proto.Marshal(&controlpb.Op{Source: &controlpb.SourceOp{Identifier: row.id, Attrs: row.attrs}})
		if err != nil {
			t.Fatal(err)
		}
		last, err := proto.Marshal(end)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := remoteOf(&controlpb.Definition{Def: [][]byte{source, last}})
		if ok != (row.want != remote{}) || ok && got != row.want {
			t.Errorf("%s %v: %+v, %v", row.id, row.attrs, got, ok)
		}
		if _, ok := remoteOf(&controlpb.Definition{Def: [][]byte{source, source, last}}); ok {
			t.Errorf("%s twice", row.id)
		}
		if _, ok := remoteOf(&controlpb.Definition{Def: [][]byte{source, {0xff, 1}}}); ok {
			t.Error("noise was understood")
		}
	}
}
