package build

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"strata/integration/harness"
)

// Who may push to, and pull from, the private registries; hashed is the password as htpasswd
// has it.
const (
	user     = "me"
	password = "s3cret"
	hashed   = "$2a$05$Eps9ozvSl5H8v1/5utzSzOFBwQVTYfE5JFLHzIlsIWNQE8yH1UGY."
)

// privateRegistry starts Debian's docker-registry with its own configuration of who is let in.
func privateRegistry(t *testing.T, s *harness.Stack, port int, auth string) string {
	t.Helper()
	address := fmt.Sprint("127.0.0.1:", port)
	config := filepath.Join(t.TempDir(), "registry.yml")
	yml := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\nlog:\n  level: error\nauth:\n%s", t.TempDir(), address, auth)
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := s.Host("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: the status says nothing
	})
	if !harness.Eventually(10*time.Second, func() bool {
		body, _ := s.Curl("http://" + address + "/v2/")
		return strings.Contains(body, "UNAUTHORIZED")
	}) {
		t.Fatal("docker-registry does not answer")
	}
	return address
}

// tokenService is the other side of the registry's token authentication. It listens where
// the test runs: the client is there, and the daemons, in a network namespace of their own,
// do not reach it.
type tokenService struct {
	key  *ecdsa.PrivateKey
	cert []byte
	url  string

	mu    sync.Mutex
	asked []string // scopes
}

func newTokenService(t *testing.T) *tokenService {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	s := &tokenService{key: key}
	if s.cert, err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL + "/token"
	return s
}

// ServeHTTP implements the distribution token specification, by GET and by POST.
func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	name, secret, _ := r.BasicAuth()
	if r.Method == http.MethodPost {
		name, secret = r.PostForm.Get("username"), r.PostForm.Get("password")
	}
	if name != user || secret != password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	list := []access{}
	for _, scopes := range r.Form["scope"] {
		for scope := range strings.FieldsSeq(scopes) {
			s.mu.Lock()
			s.asked = append(s.asked, scope)
			s.mu.Unlock()
			if f := strings.Split(scope, ":"); len(f) == 3 {
				list = append(list, access{f[0], f[1], strings.Split(f[2], ",")})
			}
		}
	}
	now := time.Now()
	token := s.sign(map[string]any{
		"iss": "issuer", "sub": name, "aud": r.Form.Get("service"), "access": list,
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": fmt.Sprint(now.UnixNano()),
	})
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

// sign makes a JSON web token with the certificate in its header.
func (s *tokenService) sign(claims map[string]any) string {
	part := func(v any) string {
		raw, _ := json.Marshal(v) // of strings and numbers
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	text := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.cert)}}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	a.FillBytes(sig[:32])
	b.FillBytes(sig[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// here makes a client's command one of the test's own network namespace.
func here(cmd *exec.Cmd) *exec.Cmd {
	out := exec.Command(cmd.Args[2], cmd.Args[3:]...)
	out.Env = cmd.Env
	return out
}

func TestPrivateRegistries(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.Plugin("buildx")
	t.Run("one with passwords takes those of docker login", func(t *testing.T) { passwords(t, s.For(t)) })
	t.Run("one with tokens never lets a password leave the client", func(t *testing.T) { tokens(t, s.For(t)) })
}

// configured returns commands of a client with a configuration of their own.
func configured(t *testing.T, s *harness.Stack) func(name string, args ...string) *exec.Cmd {
	t.Helper()
	config := t.TempDir()
	if err := os.Symlink(filepath.Join(s.Root, "config/cli-plugins"), filepath.Join(config, "cli-plugins")); err != nil {
		t.Fatal(err)
	}
	return func(name string, args ...string) *exec.Cmd {
		cmd := s.Command(name, args...)
		cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+config, "DOCKER_BUILDKIT=1")
		return cmd
	}
}

// privateProject is built upon an image of a private registry.
func privateProject(t *testing.T, registry string) string {
	t.Helper()
	return project(t, map[string]string{"Dockerfile": "FROM " + registry + "/private/base:1\nRUN echo upon it >/upon\n"})
}

func passwords(t *testing.T, s *harness.Stack) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(user+":"+hashed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	registry := privateRegistry(t, s, 5001, "  htpasswd:\n    realm: here\n    path: "+file+"\n")
	command := configured(t, s)
	login := command("docker", "login", "-u", user, "--password-stdin", registry)
	login.Stdin = strings.NewReader(password)
	if r := s.Run(login); r.Code != 0 {
		t.Fatalf("login: %+v", r)
	}
	s.OK("docker", "tag", "busybox:test", registry+"/private/base:1")
	if r := s.Run(command("docker", "push", registry+"/private/base:1")); r.Code != 0 {
		t.Fatalf("push: %+v", r)
	}
	dir := privateProject(t, registry)
	for _, client := range []string{"engine", "docker"} {
		s.OK("docker", "rmi", registry+"/private/base:1")
		name := registry + "/private/" + client
		if r := s.Run(command(client, "build", "--push", "--cache-to", "type=registry,ref="+name+":cache", "-t", name, dir)); r.Code != 0 {
			t.Fatalf("%s: %+v\n%s", client, r, s.Logs())
		}
		if r := s.Run(command("docker", "pull", name)); r.Code != 0 {
			t.Errorf("%s: what was pushed: %+v", client, r)
		}
		s.OK("docker", "rmi", registry+"/private/base:1")
		if r := build(s, client, dir); r.Code == 0 {
			t.Errorf("%s: nobody may build upon a private image", client)
		}
		if r := s.Run(command("docker", "pull", registry+"/private/base:1")); r.Code != 0 {
			t.Errorf("pull: %+v", r)
		}
	}
}

func tokens(t *testing.T, s *harness.Stack) {
	service := newTokenService(t)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: service.cert}), 0o600); err != nil {
		t.Fatal(err)
	}
	registry := privateRegistry(t, s, 5002, fmt.Sprintf("  token:\n    realm: %s\n    service: registry\n    issuer: issuer\n    rootcertbundle: %s\n", service.url, roots))
	command := configured(t, s)
	// The engine, which logs in for the client, does not reach the token service.
	entry := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	for _, kv := range command("docker").Env {
		if dir, ok := strings.CutPrefix(kv, "DOCKER_CONFIG="); ok && dir != filepath.Join(s.Root, "config") {
			if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry, entry), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	seed := project(t, map[string]string{"Dockerfile": "FROM busybox:test\n"})
	if r := s.Run(here(command("engine", "build", "--push", "-t", registry+"/private/base:1", seed))); r.Code != 0 {
		t.Fatalf("%+v\n%s", r, s.Logs())
	}
	dir := privateProject(t, registry)
	for _, client := range []string{"engine", "docker"} {
		s.OK("docker", "rmi", registry+"/private/base:1")
		name := registry + "/private/" + client
		args := []string{"build", "--push", "--no-cache", "--cache-to", "type=registry,ref=" + name + ":cache", "-t", name, dir}
		if r := s.Run(here(command(client, args...))); r.Code != 0 {
			t.Fatalf("%s: %+v\n%s", client, r, s.Logs())
		}
		pushed := strings.Join(service.asked, " ")
		if !strings.Contains(pushed, "repository:private/base:pull") || !strings.Contains(pushed, "repository:private/"+client+":pull,push") {
			t.Errorf("%s: the scopes that were asked for are %s", client, pushed)
		}
		s.OK("docker", "rmi", registry+"/private/base:1")
		refused := here(command(client, args...))
		refused.Env = append(refused.Env, "DOCKER_CONFIG="+filepath.Join(s.Root, "config"))
		if r := s.Run(refused); r.Code == 0 {
			t.Errorf("%s: nobody may build upon a private image", client)
		}
		s.OK("docker", "tag", "busybox:test", registry+"/private/base:1")
	}
	// A client that keeps no tokens gives the password: the daemon cannot use it here.
	s.OK("docker", "rmi", registry+"/private/base:1")
	cmd := here(command("docker", "build", "--no-cache", dir))
	cmd.Env = append(cmd.Env, "BUILDKIT_NO_CLIENT_TOKEN=1")
	if r := s.Run(cmd); r.Code == 0 || !strings.Contains(r.Stderr, "connection refused") {
		t.Errorf("without tokens of the client: %+v", r)
	}
}
