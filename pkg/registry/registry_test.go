package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/manifest"
)

// hostile is a registry with one repository that misbehaves as told.
type hostile struct {
	*httptest.Server
	blob     []byte
	manifest []byte

	mu       sync.Mutex
	requests []string // "GET /v2/… Range"
	sent     int64    // bytes of blobs

	truncate  int  // answers of a blob that end early
	noRanges  bool // ignores Range
	wrongBlob bool
	refuse    []int // statuses of the next requests
	token     string
	basic     string
	tokens    int // tokens handed out
}

func newHostile(t *testing.T, tls bool) *hostile {
	t.Helper()
	h := &hostile{blob: make([]byte, 3<<20)}
	_, _ = rand.Read(h.blob)
	h.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[]}`,
		manifest.DockerManifest, manifest.DockerConfig, digest.FromBytes(h.blob), len(h.blob))
	if tls {
		h.Server = httptest.NewTLSServer(h)
	} else {
		h.Server = httptest.NewServer(h)
	}
	t.Cleanup(h.Close)
	return h
}

func (h *hostile) host() string { return h.Listener.Addr().String() }

func (h *hostile) ref() string { return h.host() + "/team/app:1" }

func (h *hostile) desc() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: manifest.DockerLayerGzip, Digest: digest.FromBytes(h.blob), Size: int64(len(h.blob))}
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	if r.URL.Path == "/token" {
		h.serveToken(w, r)
		return
	}
	if len(h.refuse) > 0 {
		status := h.refuse[0]
		h.refuse = h.refuse[1:]
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(status)
		return
	}
	if h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s,1",scope="repository:team/app:pull"`, h.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if user, pass, _ := r.BasicAuth(); h.basic != "" && user+":"+pass != h.basic {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch {
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", manifest.DockerManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(h.manifest).String())
		w.Header().Set("Content-Length", strconv.Itoa(len(h.manifest)))
		_, _ = w.Write(h.manifest)
	case strings.Contains(r.URL.Path, "/blobs/"):
		h.serveBlob(w, r)
	}
}

func (h *hostile) serveToken(w http.ResponseWriter, r *http.Request) {
	user, pass, _ := r.BasicAuth()
	_ = r.ParseForm()
	if (user+":"+pass != "me:secret" && r.PostForm.Get("refresh_token") != "identity") || r.Form.Get("service") != "s,1" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	h.tokens++
	_ = json.NewEncoder(w).Encode(map[string]any{"token": h.token, "expires_in": 300, "refresh_token": "identity"})
}

func (h *hostile) serveBlob(w http.ResponseWriter, r *http.Request) {
	body, from := h.blob, 0
	if h.wrongBlob {
		body = bytes.Repeat([]byte{7}, len(h.blob))
	}
	status := http.StatusOK
	if rg := r.Header.Get("Range"); rg != "" && !h.noRanges {
		var to int
		if _, err := fmt.Sscanf(rg, "bytes=%d-%d", &from, &to); err != nil || to != len(body)-1 || from > to {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(body)))
		status = http.StatusPartialContent
	}
	body = body[from:]
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if h.truncate > 0 {
		h.truncate--
		body = body[:len(body)/2]
	}
	n, _ := w.Write(body)
	h.sent += int64(n)
}

func open(t *testing.T, ref string, opts Options) *Repository {
	t.Helper()
	r, err := New(Config{}).Repository(ref, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFetchGoesOnAfterTruncations(t *testing.T) {
	h := newHostile(t, false)
	h.truncate = 3
	var m memory
	if err := open(t, h.ref(), Options{}).Fetch(t.Context(), h.desc(), &m, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Bytes(), h.blob) {
		t.Error("content differs")
	}
	if h.sent > int64(len(h.blob)) {
		t.Errorf("registry sent %d bytes of a blob of %d: something was fetched twice", h.sent, len(h.blob))
	}
}

func TestFetchResumesFromTheSinksOffset(t *testing.T) {
	for _, noRanges := range []bool{false, true} {
		t.Run(fmt.Sprintf("registry ignores ranges: %v", noRanges), func(t *testing.T) {
			h := newHostile(t, false)
			h.noRanges = noRanges
			var m memory
			m.Write(h.blob[:len(h.blob)-1000])
			if err := open(t, h.ref(), Options{}).Fetch(t.Context(), h.desc(), &m, nil); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(m.Bytes(), h.blob) {
				t.Error("content differs")
			}
			if !noRanges && h.sent != 1000 {
				t.Errorf("registry sent %d bytes, want the 1000 missing ones", h.sent)
			}
		})
	}
}

func TestFetchOfATooLongSinkBeginsAgain(t *testing.T) {
	h := newHostile(t, false)
	var m memory
	m.Write(make([]byte, len(h.blob)+1))
	if err := open(t, h.ref(), Options{}).Fetch(t.Context(), h.desc(), &m, nil); err != nil || !bytes.Equal(m.Bytes(), h.blob) {
		t.Errorf("Fetch = %v, same content %v", err, bytes.Equal(m.Bytes(), h.blob))
	}
}

func TestTransientRefusalsAreRetriedWithinBounds(t *testing.T) {
	h := newHostile(t, false)
	h.refuse = []int{429, 503, 500}
	if _, err := open(t, h.ref(), Options{}).Resolve(t.Context()); err != nil {
		t.Errorf("Resolve = %v after three transient refusals", err)
	}
	h.refuse = []int{404, 404}
	n := len(h.requests)
	_, err := open(t, h.ref(), Options{}).Resolve(t.Context())
	if !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Resolve = %v, want ErrNotFound", err)
	}
	for _, r := range h.requests[n:] {
		if len(h.requests)-n > 4 {
			t.Fatalf("a 404 was repeated: %s", r)
		}
	}
}

func TestDigestsAreVerified(t *testing.T) {
	h := newHostile(t, false)
	r := open(t, h.ref(), Options{})
	desc, err := r.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.Manifest(t.Context(), desc)
	if err != nil || !bytes.Equal(raw, h.manifest) {
		t.Fatalf("Manifest = %s, %v", raw, err)
	}
	h.manifest = append(h.manifest, ' ')
	if _, err := r.Manifest(t.Context(), desc); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("Manifest of other bytes = %v, want ErrDataLoss", err)
	}
	h.wrongBlob = true
	if _, err := r.Blob(t.Context(), h.desc(), 8<<20); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("Blob of other bytes = %v, want ErrDataLoss", err)
	}
	if _, err := r.Blob(t.Context(), h.desc(), 10); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("Blob above the limit = %v, want ErrInvalidArgument", err)
	}
}

func TestBearerTokens(t *testing.T) {
	for _, tt := range []struct {
		name string
		cred Credential
		ok   bool
	}{
		{"user and password", Credential{Username: "me", Password: "secret"}, true},
		{"identity token", Credential{RefreshToken: "identity"}, true},
		{"given header", Credential{Header: "Bearer T"}, true},
		{"wrong password", Credential{Username: "me", Password: "x"}, false},
		{"anonymous", Credential{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHostile(t, false)
			h.token = "T"
			r := open(t, h.ref(), Options{Credentials: func(context.Context, string, []string) (Credential, error) { return tt.cred, nil }})
			_, err := r.Resolve(t.Context())
			if tt.ok != (err == nil) || (!tt.ok && !errors.Is(err, errdefs.ErrUnauthenticated)) {
				t.Fatalf("Resolve = %v, want success %v", err, tt.ok)
			}
			if _, err = r.Blob(t.Context(), h.desc(), 8<<20); tt.ok && (err != nil || h.tokens > 1) {
				t.Errorf("Blob = %v, with %d tokens fetched, want one", err, h.tokens)
			}
			if strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("error %v holds the password", err)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	h := newHostile(t, false)
	h.token = "T"
	got, err := New(Config{}).Login(t.Context(), h.host(), Credential{Username: "me", Password: "secret"}, Options{})
	if err != nil || got != "identity" {
		t.Errorf("Login = %q, %v; want the identity token", got, err)
	}
	h.token, h.basic = "", "me:secret"
	if _, err := New(Config{}).Login(t.Context(), h.host(), Credential{Username: "me", Password: "secret"}, Options{}); err != nil {
		t.Errorf("Login with basic = %v", err)
	}
	if _, err := New(Config{}).Login(t.Context(), h.host(), Credential{Username: "me", Password: "x"}, Options{}); !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("Login with a wrong password = %v, want ErrUnauthenticated", err)
	}
}

// TestCredentialsStayWithTheRegistry lets a registry redirect a blob elsewhere.
func TestCredentialsStayWithTheRegistry(t *testing.T) {
	var seen http.Header
	storage := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() }))
	defer storage.Close()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, storage.URL+"/x", http.StatusTemporaryRedirect)
	}))
	defer front.Close()
	r := open(t, strings.TrimPrefix(front.URL, "http://")+"/a/b", Options{
		Header: http.Header{"X-Secret": {"s"}},
		Credentials: func(context.Context, string, []string) (Credential, error) {
			return Credential{Username: "u", Password: "p"}, nil
		},
	})
	var m memory
	ctx, cancel := context.WithCancel(t.Context())
	time := func(int64) { cancel() }
	_ = r.Fetch(ctx, ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}, &m, time)
	if seen == nil {
		t.Fatal("the redirect was not followed")
	}
	if seen.Get("Authorization") != "" || seen.Get("X-Secret") != "" {
		t.Errorf("another origin saw %v", seen)
	}
}

func TestHostsFile(t *testing.T) {
	h := newHostile(t, true)
	dir := t.TempDir()
	name := "registry.example"
	host := filepath.Join(dir, name)
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(host, "hosts.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ca := filepath.Join(host, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	// The first mirror is dead, the second is not for pulls, the third is ours.
	write(`server = "https://127.0.0.1:1"
[host."http://127.0.0.1:1"]
[host."` + h.URL + `/push"]
  capabilities = ["push"]
[host."` + h.URL + `"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
  [host."` + h.URL + `".header]
    x-a = ["b"]
`)
	c := New(Config{HostDir: dir})
	r, err := c.Repository(name+"/team/app:1", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context()); err != nil {
		t.Errorf("Resolve through a mirror = %v", err)
	}
	write(`server = "` + h.URL + `"` + "\n")
	r, _ = c.Repository(name+"/team/app:1", Options{})
	if _, err := r.Resolve(t.Context()); err == nil {
		t.Error("an unknown authority was trusted")
	}
	write(`server = "` + h.URL + `"` + "\nskip_verify = true\n")
	r, _ = c.Repository(name+"/team/app:1", Options{})
	if _, err := r.Resolve(t.Context()); err != nil {
		t.Errorf("Resolve with skip_verify = %v", err)
	}
	write("server = [")
	if _, err := c.Repository(name+"/team/app:1", Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("broken file gives %v", err)
	}
}

func TestMirrorsAskForTheirOwnCredentials(t *testing.T) {
	mirror, server := newHostile(t, false), newHostile(t, false)
	mirror.basic, server.basic = "m:m", "s:s"
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "registry.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n[host.%q]\n", server.URL, mirror.URL)
	if err := os.WriteFile(filepath.Join(dir, "registry.example", "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var asked []string
	r, err := New(Config{HostDir: dir}).Repository("registry.example/team/app:1", Options{Credentials: func(_ context.Context, host string, _ []string) (Credential, error) {
		asked = append(asked, host)
		if host == "registry.example" {
			return Credential{Username: "s", Password: "s"}, nil
		}
		return Credential{}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context()); err != nil {
		t.Errorf("Resolve = %v", err)
	}
	if len(asked) != 2 || asked[0] != mirror.host() || asked[1] != "registry.example" {
		t.Errorf("credentials were asked for %v", asked)
	}
}

func TestLoopbackSpeaksWhateverThereIs(t *testing.T) {
	for _, tls := range []bool{false, true} {
		h := newHostile(t, tls)
		if _, err := open(t, h.ref(), Options{}).Resolve(t.Context()); err != nil {
			t.Errorf("Resolve from loopback, TLS %v: %v", tls, err)
		}
	}
}

func TestTableOrderIsTheFiles(t *testing.T) {
	got := tableOrder([]byte("[host.\"z\"]\n[host.\"z\".header]\na='b'\n[host.'a']\n[other]\n[host.m]\n"))
	if strings.Join(got, ",") != "z,a,m" {
		t.Errorf("tableOrder = %v", got)
	}
}

func TestParseChallenges(t *testing.T) {
	got := parseChallenges([]string{`Basic realm="a, b", Bearer realm="https://x/\"t\"",service=s ,scope="p:q:r,w"`})
	if len(got) != 2 || got[0].scheme != "basic" || got[0].params["realm"] != "a, b" || got[1].params["realm"] != `https://x/"t"` ||
		got[1].params["service"] != "s" || got[1].params["scope"] != "p:q:r,w" {
		t.Errorf("parseChallenges = %+v", got)
	}
}

// uploads is a registry whose uploads break off.
type uploads struct {
	mu      sync.Mutex
	got     []byte
	breaks  int
	mount   string
	started int
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	loc := "http://" + r.Host + "/v2/a/b/blobs/uploads/1?state=s"
	switch {
	case r.Method == http.MethodHead:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPost && u.mount != "" && r.URL.Query().Get("from") == u.mount:
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPost:
		u.started++
		w.Header().Set("Location", loc)
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodGet:
		w.Header().Set("Location", loc)
		w.Header().Set("Range", fmt.Sprintf("0-%d", len(u.got)-1))
		w.WriteHeader(http.StatusNoContent)
	case u.breaks > 0:
		u.breaks--
		part, _ := io.ReadAll(io.LimitReader(r.Body, 1000))
		u.got = append(u.got, part...)
		w.WriteHeader(http.StatusBadGateway)
	default:
		part, _ := io.ReadAll(r.Body)
		u.got = append(u.got, part...)
		w.Header().Set("Location", loc)
		if r.Method == http.MethodPut {
			if q := r.URL.Query(); q.Get("state") != "s" || digest.FromBytes(u.got).String() != q.Get("digest") {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			w.WriteHeader(http.StatusCreated)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

func TestPushBlobGoesOnWhereItBrokeOff(t *testing.T) {
	u := &uploads{breaks: 2}
	s := httptest.NewServer(u)
	defer s.Close()
	blob := make([]byte, 100_000)
	_, _ = rand.Read(blob)
	base, _ := url.Parse(s.URL)
	r := open(t, base.Host+"/a/b:1", Options{})
	desc := ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	how, err := r.PushBlob(t.Context(), desc, bytes.NewReader(blob), nil, nil)
	if err != nil || how != Uploaded || !bytes.Equal(u.got, blob) || u.started != 1 {
		t.Errorf("PushBlob = %v, %v; same content %v; %d uploads", how, err, bytes.Equal(u.got, blob), u.started)
	}
	u.mount = "other/repo"
	if how, err := r.PushBlob(t.Context(), desc, bytes.NewReader(blob), []string{"a/b", "other/repo"}, nil); err != nil || how != Mounted {
		t.Errorf("PushBlob = %v, %v; want a mount", how, err)
	}
}

// FuzzReference holds that no reference leads outside the directory of hosts.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"busybox", "a.b:5000/c/d:e", "../../x", "localhost/x@sha256:" + strings.Repeat("0", 64), "_default/x", "[::1]:5000/a"} {
		f.Add(s)
	}
	c := New(Config{HostDir: f.TempDir()})
	f.Fuzz(func(t *testing.T, ref string) {
		r, err := c.Repository(ref, Options{})
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatalf("Repository(%q) = %v", ref, err)
			}
			return
		}
		u := r.hosts[0].base.JoinPath(r.Path(), "manifests", r.tagOrDigest())
		if !strings.HasPrefix(u.Path, "/v2/") || strings.Contains(u.Path, "..//") || u.RawQuery != "" {
			t.Fatalf("reference %q leads to %s", ref, u)
		}
		again, err := c.Repository(r.Reference(), Options{})
		if err != nil || again.Reference() != r.Reference() {
			t.Fatalf("reference %q is not stable: %v", r.Reference(), err)
		}
	})
}

// A registry that is insecure by configuration is asked with TLS first, and then without: to
// wait before the second would cost a fifth of a second with each request.
func TestAPlainServerIsNotAskedForTLSAgain(t *testing.T) {
	plain := newHostile(t, false)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+plain.Listener.Addr().String()+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		_ = resp.Body.Close() // nobody reads it
	}
	if err == nil || transient(classify(err)) {
		t.Errorf("asked again after %v", err)
	}
}
