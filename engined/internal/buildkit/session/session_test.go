package session

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"strata/engined/internal/buildkit/synced"
	"strata/engined/internal/images"
	"strata/pkg/buildclient"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/buildkit/transfer"
)

// daemon is an engine of which only the sessions are there: Solve calls do with that of the
// request.
type daemon struct {
	controlpb.UnimplementedControlServer
	sessions Manager
	do       func(ctx context.Context, s *Session) error
	conns    chan net.Conn
}

func (d *daemon) Solve(ctx context.Context, req *controlpb.SolveRequest) (*controlpb.SolveResponse, error) {
	s, err := d.sessions.Get(ctx, req.Session)
	if err == nil {
		err = d.do(ctx, s)
	}
	return &controlpb.SolveResponse{}, err
}

func (d *daemon) Status(*controlpb.StatusRequest, controlpb.Control_StatusServer) error { return nil }

// Upgrade implements buildclient.Upgrader.
func (d *daemon) Upgrade(ctx context.Context, path, _ string, h http.Header) (net.Conn, error) {
	near, far := net.Pipe()
	if path == "/grpc" {
		d.conns <- far
		return near, nil
	}
	go func() { _ = d.sessions.Run(context.WithoutCancel(ctx), far, h) }()
	return near, nil
}

func (d *daemon) Accept() (net.Conn, error) {
	c, ok := <-d.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (d *daemon) Close() error   { return nil }
func (d *daemon) Addr() net.Addr { return &net.UnixAddr{Name: "test"} }

// run builds b with a daemon that does nothing but do.
func run(t *testing.T, b buildclient.Build, do func(ctx context.Context, s *Session) error) error {
	t.Helper()
	d := &daemon{do: do, conns: make(chan net.Conn, 1)}
	srv := grpc.NewServer()
	controlpb.RegisterControlServer(srv, d)
	go func() { _ = srv.Serve(d) }()
	defer srv.Stop()
	defer close(d.conns)
	if b.Attrs == nil {
		b.Attrs = map[string]string{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := buildclient.Run(ctx, d, b, func(*controlpb.StatusResponse) {})
	return err
}

func TestBlobsAreInALayoutOfTheClient(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	data := bytes.Repeat([]byte("blob "), 1<<19) // more than two messages
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := run(t, buildclient.Build{CacheTo: []buildclient.Cache{{Type: "local", Dir: dir}}}, func(ctx context.Context, s *Session) error {
		b := s.Blobs("local:cache-to-0")
		if _, err := b.Open(ctx, d); !errdefs.IsNotFound(err) {
			t.Errorf("a blob that is not there: %v", err)
		}
		if err := b.Write(ctx, d, bytes.NewReader(data[1:])); err == nil {
			t.Error("another content than the digest says is taken")
		}
		if _, err := b.Resolve(ctx, d.Digest.String()); !errdefs.IsNotFound(err) {
			t.Errorf("it is there: %v", err)
		}
		for range 2 { // the second time it is there
			if err := b.Write(ctx, d, bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
		}
		r, err := b.Open(ctx, d)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if got, err := b.Resolve(ctx, d.Digest.String()); err != nil || got.Size != d.Size {
			t.Errorf("%+v, %v", got, err)
		}
		outside := ocispec.Descriptor{Digest: "sha256:../../../../../../etc/passwd"}
		if _, err := b.Open(ctx, outside); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", outside.Digest, err)
		}
		if err := b.Write(ctx, outside, bytes.NewReader(data)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("write %s: %v", outside.Digest, err)
		}
		if _, err := s.Blobs("local:other").Open(ctx, d); !errdefs.IsNotFound(err) {
			t.Errorf("a store that nobody has offered: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 || list[0].Name() != "blobs" {
		t.Errorf("the directory has %v, %v", list, err)
	}
}

func TestSecretsAndCredentialsComeFromTheClient(t *testing.T) {
	b := buildclient.Build{
		Secrets: map[string]buildclient.Secret{"tok": func() ([]byte, error) { return []byte("s3cret"), nil }},
		Auth: func(_ context.Context, host string) (string, string, error) {
			if host == "registry-1.docker.io" {
				return "me", "mine", nil
			}
			return "", "", nil
		},
	}
	err := run(t, b, func(ctx context.Context, s *Session) error {
		if data, err := s.Secret(ctx, "tok"); err != nil || string(data) != "s3cret" {
			t.Errorf("secret %q, %v", data, err)
		}
		if _, err := s.Secret(ctx, "none"); !errdefs.IsNotFound(err) {
			t.Errorf("a secret that is not there: %v", err)
		}
		if a, err := s.Auth(ctx, AuthRequest{Host: "docker.io"}); err != nil || a.Username != "me" || a.Password != "mine" {
			t.Errorf("credentials %+v, %v", a, err)
		}
		if a, err := s.Auth(ctx, AuthRequest{Host: "elsewhere:5000"}); err != nil || a.Username != "" || a.IdentityToken != "" {
			t.Errorf("nobody's credentials %+v, %v", a, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTheClientAsksTokenServices(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "mine" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token": strings.Join(r.URL.Query()["scope"], " ") + " at " + r.URL.Query().Get("service"), "expires_in": 300})
	}))
	defer service.Close()
	password := "mine"
	b := buildclient.Build{Auth: func(context.Context, string) (string, string, error) { return "me", password, nil }}
	err := run(t, b, func(ctx context.Context, s *Session) error {
		r := AuthRequest{Host: "r", Challenges: []string{`Bearer realm="` + service.URL + `/token",service="it",scope="repository:x:pull"`}, Scopes: []string{"repository:x:pull,push"}}
		if a, err := s.Auth(ctx, r); err != nil || a != (images.Auth{RegistryToken: "repository:x:pull repository:x:pull,push at it"}) {
			t.Errorf("%+v, %v", a, err)
		}
		r.Challenges[0] = `Basic realm="it"`
		if a, err := s.Auth(ctx, r); err != nil || a != (images.Auth{Username: "me", Password: "mine"}) {
			t.Errorf("a registry without tokens: %+v, %v", a, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	password = "wrong"
	err = run(t, b, func(ctx context.Context, s *Session) error {
		a, err := s.Auth(ctx, AuthRequest{Host: "r", Challenges: []string{`Bearer realm="` + service.URL + `/token"`}})
		if a != (images.Auth{}) || !errdefs.IsUnauthorized(err) {
			t.Errorf("a wrong password: %+v, %v", a, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestTokensAreProvedToBeOurs speaks as a stock daemon does, which gives a token that it was
// given in one session to another of the same user.
func TestTokensAreProvedToBeOurs(t *testing.T) {
	secret := "mine"
	b := buildclient.Build{Auth: func(context.Context, string) (string, string, error) { return "me", secret, nil }}
	keys := map[string]bool{}
	for _, salt := range []string{"one", "two"} {
		err := run(t, b, func(ctx context.Context, s *Session) error {
			client := sessionpb.NewAuthClient(s.cc)
			for _, host := range []string{"a", "b"} {
				got, err := client.GetTokenAuthority(ctx, &sessionpb.GetTokenAuthorityRequest{Host: host, Salt: []byte(salt)})
				if err != nil {
					return err
				}
				keys[string(got.PublicKey)] = true
				v, err := client.VerifyTokenAuthority(ctx, &sessionpb.VerifyTokenAuthorityRequest{Host: host, Salt: []byte(salt), Payload: []byte("prove it")})
				if err != nil {
					return err
				}
				if len(v.Signed) != ed25519.SignatureSize+len("prove it") || !ed25519.Verify(got.PublicKey, v.Signed[ed25519.SignatureSize:], v.Signed[:ed25519.SignatureSize]) {
					t.Errorf("%s: signed %x", host, v.Signed)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if len(keys) != 4 {
		t.Errorf("%d keys for two hosts and two daemons", len(keys))
	}
}

func TestAgentsAreForwarded(t *testing.T) {
	agent := func(context.Context) (net.Conn, error) { // says what it hears, in capitals
		near, far := net.Pipe()
		go func() {
			buf := make([]byte, 100)
			n, _ := far.Read(buf)
			_, _ = far.Write(bytes.ToUpper(buf[:n]))
			_ = far.Close()
		}()
		return near, nil
	}
	err := run(t, buildclient.Build{Agents: map[string]buildclient.Agent{"default": agent}}, func(ctx context.Context, s *Session) error {
		for range 2 {
			conn, err := s.Dial(ctx, "")
			if err != nil {
				return err
			}
			if _, err := io.WriteString(conn, "sign this"); err != nil {
				return err
			}
			answer, err := io.ReadAll(conn)
			if err != nil && !errors.Is(err, io.EOF) || string(answer) != "SIGN THIS" {
				t.Errorf("answer %q, %v", answer, err)
			}
			_ = conn.Close()
		}
		if _, err := s.Dial(ctx, "other"); !errdefs.IsNotFound(err) {
			t.Errorf("an agent that is not there: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUploadsComeInOnePiece(t *testing.T) {
	text := strings.Repeat("0123456789", 1<<19) // more than one message may have
	err := run(t, buildclient.Build{Uploads: map[string]io.Reader{"ctx": strings.NewReader(text)}}, func(ctx context.Context, s *Session) error {
		r, err := s.Upload(ctx, "/ctx")
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		got, err := io.ReadAll(r)
		if err != nil || string(got) != text {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, dir string, list ...string) {
	t.Helper()
	for _, name := range list {
		full := filepath.Join(dir, name)
		if link, to, ok := strings.Cut(name, "->"); ok {
			if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// names are all files of a tree.
func names(t *testing.T, tree *synced.Tree) []string {
	t.Helper()
	var out []string
	var visit func(dir string)
	visit = func(dir string) {
		list, err := tree.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, base := range list {
			name := filepath.Join(dir, base)
			out = append(out, name[1:])
			if n, err := tree.Lstat(name); err == nil && n.Mode.IsDir() {
				visit(name)
			}
		}
	}
	visit("/")
	return out
}

func TestFilesAreThoseThatAreWantedAndNotIgnored(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.txt", "b.md", "d/x.txt", "d/y.md", "d/sub/z.txt", "é/ü.txt", "link->d/sub", "up->/d/x.txt", "out->../../../etc", "loop->loop", "keep/one", "keep/two")
	err := run(t, buildclient.Build{Dirs: map[string]string{"context": dir}}, func(ctx context.Context, s *Session) error {
		for _, row := range []struct {
			name            string
			follow, exclude []string
			want            []string
		}{
			{"everything", nil, nil, []string{"a.txt", "b.md", "d", "d/sub", "d/sub/z.txt", "d/x.txt", "d/y.md", "keep", "keep/one", "keep/two", "link", "loop", "out", "up", "é", "é/ü.txt"}},
			{"a path", []string{"d/sub"}, nil, []string{"d", "d/sub", "d/sub/z.txt"}},
			{"patterns", []string{"*.txt", "d/*.md"}, nil, []string{"a.txt", "d", "d/y.md"}},
			{"behind a symlink", []string{"link/z.txt"}, nil, []string{"d", "d/sub", "d/sub/z.txt", "link"}},
			{"an absolute symlink stays inside", []string{"up"}, nil, []string{"d", "d/x.txt", "up"}},
			{"a symlink out of it leads nowhere", []string{"out/passwd"}, nil, []string{"out"}},
			{"a circle", []string{"loop/x"}, nil, []string{"loop"}},
			{"ignored", nil, []string{"d", "keep", "*o*", "é", "link", "up"}, []string{"a.txt", "b.md"}},
			{"exceptions", nil, []string{"*", "!keep/two", "!d/sub"}, []string{"d", "d/sub", "d/sub/z.txt", "keep", "keep/two"}},
			{"wanted and ignored", []string{"d"}, []string{"**/*.md"}, []string{"d", "d/sub", "d/sub/z.txt", "d/x.txt"}},
			{"names beyond ASCII", []string{"é"}, nil, []string{"é", "é/ü.txt"}},
			{"nothing of the kind", []string{"nope"}, nil, nil},
		} {
			store := synced.Open(t.TempDir(), 1<<30, synced.Limits{Bytes: 1 << 20, Entries: 100})
			err := s.Files(ctx, FilesRequest{Dir: "context", Follow: row.follow, Exclude: row.exclude}, func(ctx context.Context, p Packets) error {
				tree, err := store.Once(ctx, p, nil)
				if err != nil {
					return err
				}
				if got := names(t, tree); !slices.Equal(got, row.want) {
					t.Errorf("%s: %q, want %q", row.name, got, row.want)
				}
				return tree.Close()
			})
			if err != nil {
				t.Errorf("%s: %v", row.name, err)
			}
		}
		err := s.Files(ctx, FilesRequest{Dir: "other"}, func(ctx context.Context, p Packets) error {
			_, err := synced.Open(t.TempDir(), 1, synced.Limits{}).Once(ctx, p, nil)
			return err
		})
		if !errdefs.IsNotFound(err) {
			t.Errorf("a directory that is not offered: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// memory is a File in memory.
type memory struct {
	bytes.Buffer
	meta           map[string]string
	closed, thrown bool
}

func (m *memory) Close() error { m.closed = true; return nil }
func (m *memory) Abort() error { m.thrown = true; return nil }

func TestArchivesGoToTheClient(t *testing.T) {
	var good, bad memory
	open := func(m *memory) func(map[string]string) (buildclient.File, error) {
		return func(meta map[string]string) (buildclient.File, error) { m.meta = meta; return m, nil }
	}
	b := buildclient.Build{Outputs: []buildclient.Output{
		{Type: "tar", File: open(&good)},
		{Type: "oci", File: open(&bad)},
		{Type: "oci", File: func(map[string]string) (buildclient.File, error) { return nil, errors.New("disk is full") }},
	}}
	text := strings.Repeat("archive ", 1<<18)
	err := run(t, b, func(ctx context.Context, s *Session) error {
		w, err := s.SendFile(ctx, 0, map[string]string{"name": "x"})
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		cut, cancel := context.WithCancel(ctx)
		if w, err = s.SendFile(cut, 1, nil); err != nil {
			cancel()
			return err
		}
		_, _ = io.WriteString(w, text)
		cancel()
		_ = w.Close()
		if w, err = s.SendFile(ctx, 2, nil); err == nil {
			_, _ = io.WriteString(w, "x")
			err = w.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "disk is full") {
			t.Errorf("the client's error is %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if good.String() != text || !good.closed || good.meta["name"] != "x" {
		t.Errorf("%d bytes, closed %v, %v", good.Len(), good.closed, good.meta)
	}
	if bad.closed {
		t.Error("an archive that broke off was taken for a whole one")
	}
}

// treeFiles sends what a directory has, and names that a good daemon would not.
type treeFiles struct {
	list []*sessionpb.Stat
}

func (f treeFiles) Walk(_ context.Context, say func(*sessionpb.Stat) error) error {
	for _, st := range f.list {
		if err := say(st); err != nil {
			return err
		}
	}
	return nil
}

func (f treeFiles) Open(name string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("text of " + name)), nil
}

func TestTreesGoToTheClientsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	outside := t.TempDir()
	write(t, dir, "old", "was/dir")
	write(t, outside, "precious")
	if err := os.Symlink(outside, filepath.Join(dir, "trap")); err != nil {
		t.Fatal(err)
	}
	stat := func(name string, mode fs.FileMode, link string) *sessionpb.Stat {
		return &sessionpb.Stat{Path: name, Mode: uint32(mode), Linkname: link, ModTime: 1_000_000_000}
	}
	send := func(list ...*sessionpb.Stat) error {
		return run(t, buildclient.Build{Outputs: []buildclient.Output{{Type: "local", Dir: dir}}}, func(ctx context.Context, s *Session) error {
			return s.SendTree(ctx, 0, func(p PacketStream) error { return transfer.Send(ctx, p, treeFiles{list}, nil) })
		})
	}
	if err := send(stat("d", fs.ModeDir|0o500, ""), stat("d/f", 0o640, ""), stat("l", fs.ModeSymlink|0o777, "d/f"), stat("was", 0o600, "")); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "l")); err != nil || string(data) != "text of d/f" {
		t.Errorf("%q, %v", data, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "d/f")); err != nil || info.Mode() != 0o640 || info.ModTime().Unix() != 1 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "old")); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
	for _, row := range [][]*sessionpb.Stat{
		{stat("trap/precious", 0o600, "")},
		{stat("../escape", 0o600, "")},
		{stat("/escape", 0o600, "")},
		{stat("x", fs.ModeSymlink|0o777, outside), stat("x/precious", 0o600, "")},
	} {
		if err := send(row...); err == nil {
			t.Errorf("%s was written", row[len(row)-1].Path)
		}
	}
	if data, err := os.ReadFile(filepath.Join(outside, "precious")); err != nil || string(data) != "precious" {
		t.Errorf("outside: %q, %v", data, err)
	}
}

func TestCallsEndWithTheSession(t *testing.T) {
	var m Manager
	near, far := net.Pipe()
	ended := make(chan error, 1)
	h := http.Header{}
	h.Set("X-Docker-Expose-Session-Uuid", "one")
	h.Set("X-Docker-Expose-Session-Grpc-Method", sessionpb.Secrets_GetSecret_FullMethodName)
	go func() { ended <- m.Run(t.Context(), far, h) }()
	s, err := m.Get(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.CopyN(io.Discard, near, 24) // HTTP/2's preface: nobody answers it
		_ = near.Close()
	}()
	if _, err := s.Secret(t.Context(), "x"); !errdefs.IsUnavailable(err) {
		t.Errorf("a call on a dead session: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.Get(ctx, "one"); !errdefs.IsNotFound(err) {
		t.Errorf("a session that has ended: %v", err)
	}
}
