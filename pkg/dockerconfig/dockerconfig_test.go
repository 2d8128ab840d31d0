package dockerconfig_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"strata/pkg/dockerconfig"
)

func load(t *testing.T, dir string) *dockerconfig.File {
	t.Helper()
	f, err := dockerconfig.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestWritingKeepsWhatItDoesNotKnow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	before := `{"plugins":{"x":{"y":"z"}},"auths":{"r:1":{"auth":"bWU6c2VjcmV0"}},"psFormat":"{{.ID}}"}`
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	f := load(t, dir)
	if f.Formats.Ps != "{{.ID}}" {
		t.Errorf("psFormat = %q, want {{.ID}}", f.Formats.Ps)
	}
	if err := f.SetCurrentContext("foo"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil || got["plugins"] == nil || got["auths"] == nil || got["currentContext"] != "foo" {
		t.Errorf("file = %s, %v, want the context added and the rest kept", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
}

func TestCredentialsRoundTripThroughTheFile(t *testing.T) {
	dir := t.TempDir()
	f := load(t, dir)
	plain, err := f.Store(t.Context(), dockerconfig.Credential{Server: "r:1", Username: "me", Password: "se:cret"})
	if err != nil || !plain {
		t.Fatalf("Store = %v, %v, want it in the file", plain, err)
	}
	f = load(t, dir)
	c, err := f.Credential(t.Context(), "r:1")
	if err != nil || c.Username != "me" || c.Password != "se:cret" {
		t.Errorf("Credential = %+v, %v, want what was stored", c.Username, err)
	}
	if found, err := f.Erase(t.Context(), "r:1"); err != nil || !found {
		t.Errorf("Erase = %v, %v, want it found", found, err)
	}
	if c, err := load(t, dir).Credential(t.Context(), "r:1"); err != nil || !c.Empty() {
		t.Errorf("Credential after Erase = %v, %v, want none", c, err)
	}
}

func TestCredentialNeverPrintsItsSecrets(t *testing.T) {
	c := dockerconfig.Credential{Server: "r", Username: "me", Password: "secret1", IdentityToken: "secret2", RegistryToken: "secret3"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		if s := fmt.Sprintf(format, c); strings.Contains(s, "secret") {
			t.Errorf("Sprintf(%q) = %s, which holds a secret", format, s)
		}
	}
}

// helper installs a credential helper that keeps what it is given in a file.
func helper(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	script := `#!/bin/sh
case "$1" in
store) cat > ` + dir + `/kept ;;
get) read server
     [ "$server" = r:1 ] || { echo "credentials not found in native keychain"; exit 1; }
     sed 's/"ServerURL":"[^"]*",//' ` + dir + `/kept ;;
erase) rm ` + dir + `/kept ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestCredentialsGoToTheHelperThatIsConfigured(t *testing.T) {
	helper(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credsStore":"test"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f := load(t, dir)
	plain, err := f.Store(t.Context(), dockerconfig.Credential{Server: "r:1", Username: "me", Password: "secret"})
	if err != nil || plain {
		t.Fatalf("Store = %v, %v, want it with the helper", plain, err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "config.json")); strings.Contains(string(data), "auths") {
		t.Errorf("config.json = %s, want no credential in it", data)
	}
	c, err := f.Credential(t.Context(), "r:1")
	if err != nil || c.Username != "me" || c.Password != "secret" {
		t.Errorf("Credential = %v, %v, want what was stored", c, err)
	}
	if c, err := f.Credential(t.Context(), "other"); err != nil || !c.Empty() {
		t.Errorf("Credential of an unknown registry = %v, %v, want none", c, err)
	}
}

func TestHelperNameMayNotBeAPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"r":"../../evil"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, dir).Credential(t.Context(), "r"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("Credential = %v, want an invalid argument", err)
	}
}

func TestContextsRoundTripInDockersLayout(t *testing.T) {
	dir := t.TempDir()
	s := dockerconfig.OpenContexts(dir)
	in := dockerconfig.NewContext("foo", "text", dockerconfig.Endpoint{Host: "tcp://1.2.3.4:2376"})
	if err := s.Put(in, dockerconfig.TLSFiles{CA: []byte("pem")}); err != nil {
		t.Fatal(err)
	}
	// The directory is named after the hash of the name, as docker's store has it.
	const id = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	for _, file := range []string{"contexts/meta/" + id + "/meta.json", "contexts/tls/" + id + "/docker/ca.pem"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
	got, err := s.Get("foo")
	if err != nil || got.Host() != "tcp://1.2.3.4:2376" || got.Description() != "text" {
		t.Errorf("Get = %+v, %v, want what was put", got, err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("List = %v, %v, want one context", list, err)
	}
	if err := s.Remove("foo"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("foo"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Get after Remove = %v, want not found", err)
	}
}

func TestProxyEnvLeavesWhatTheUserHasSet(t *testing.T) {
	dir := t.TempDir()
	conf := `{"proxies":{"default":{"httpProxy":"http://p:1"},"tcp://h:1":{"noProxy":"x"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	f := load(t, dir)
	got := f.ProxyEnv("unix:///x", func(name string) bool { return name == "http_proxy" })
	if len(got) != 1 || got[0] != "HTTP_PROXY=http://p:1" {
		t.Errorf("ProxyEnv = %q, want HTTP_PROXY only", got)
	}
	if got := f.ProxyEnv("tcp://h:1", func(string) bool { return false }); len(got) != 2 {
		t.Errorf("ProxyEnv of a host of its own = %q, want NO_PROXY and no_proxy", got)
	}
}
