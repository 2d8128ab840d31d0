package dockerconfig

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/containerd/errdefs"
)

// HubServer is the key under which credentials of Docker Hub are kept.
const HubServer = "https://index.docker.io/v1/"

// Credential is what a registry wants to see. Its String hides the secrets.
type Credential struct {
	Server        string
	Username      string
	Password      string
	IdentityToken string
	RegistryToken string
}

// Empty says that there is nothing to show.
func (c Credential) Empty() bool {
	return c.Username == "" && c.IdentityToken == "" && c.RegistryToken == ""
}

func (c Credential) String() string {
	return fmt.Sprintf("credential of %q for %s", c.Username, c.Server)
}

// GoString hides the secrets from %#v too.
func (c Credential) GoString() string { return c.String() }

// Format hides them from %v and %+v.
func (c Credential) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(c.String())) }

// tokenUser is the name under which helpers keep identity tokens.
const tokenUser = "<token>"

// Credential looks a registry up: its own helper, the store, then the file. No credential is an
// empty one.
func (f *File) Credential(ctx context.Context, server string) (Credential, error) {
	if helper := f.helper(server); helper != "" {
		return runGet(ctx, helper, server)
	}
	for _, key := range serverKeys(server) {
		if e, ok := f.auths[key]; ok {
			return e.decode(server)
		}
	}
	want := hostOf(server)
	for key, e := range f.auths {
		if hostOf(key) == want {
			return e.decode(server)
		}
	}
	return Credential{Server: server}, nil
}

func (f *File) helper(server string) string {
	if h, ok := f.CredHelpers[server]; ok {
		return h
	}
	return f.CredsStore
}

func serverKeys(server string) []string {
	return []string{server, "https://" + server, "http://" + server}
}

// hostOf cuts scheme and path off a key of the file, which old clients have written.
func hostOf(server string) string {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, _, _ := strings.Cut(server, "/")
	return host
}

func (e authEntry) decode(server string) (Credential, error) {
	c := Credential{Server: server, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth == "" {
		return c, nil
	}
	data, err := base64.StdEncoding.DecodeString(e.Auth)
	user, password, ok := strings.Cut(string(data), ":")
	if err != nil || !ok {
		return c, fmt.Errorf("credential of %s in the client configuration is damaged: log in again: %w", server, errdefs.ErrInvalidArgument)
	}
	c.Username, c.Password = user, strings.Trim(password, "\x00")
	return c, nil
}

// Store keeps a credential: in the helper of its registry if there is one, else in the file.
// plain reports that it went into the file, readable to whoever reads it.
func (f *File) Store(ctx context.Context, c Credential) (plain bool, err error) {
	if helper := f.helper(c.Server); helper != "" {
		in := map[string]string{"ServerURL": c.Server, "Username": c.Username, "Secret": c.Password}
		if c.IdentityToken != "" {
			in["Username"], in["Secret"] = tokenUser, c.IdentityToken
		}
		data, err := json.Marshal(in)
		if err != nil {
			return false, fmt.Errorf("encode credential: %w", err)
		}
		_, err = runHelper(ctx, helper, "store", data)
		return false, err
	}
	e := authEntry{IdentityToken: c.IdentityToken}
	e.Auth = base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	if c.IdentityToken != "" {
		e.Auth = base64.StdEncoding.EncodeToString([]byte(c.Username + ":"))
	}
	f.auths[c.Server] = e
	return true, f.saveAuths()
}

// Erase forgets the credential of a registry. found says that there was one.
func (f *File) Erase(ctx context.Context, server string) (found bool, err error) {
	if helper := f.helper(server); helper != "" {
		_, err := runHelper(ctx, helper, "erase", []byte(server))
		return err == nil, err
	}
	for _, key := range serverKeys(server) {
		if _, ok := f.auths[key]; ok {
			delete(f.auths, key)
			found = true
		}
	}
	if !found {
		return false, nil
	}
	return true, f.saveAuths()
}

func (f *File) saveAuths() error {
	if err := f.set("auths", f.auths, len(f.auths) == 0); err != nil {
		return err
	}
	return f.save()
}

func runGet(ctx context.Context, helper, server string) (Credential, error) {
	out, err := runHelper(ctx, helper, "get", []byte(server))
	if errors.Is(err, errdefs.ErrNotFound) {
		return Credential{Server: server}, nil
	}
	if err != nil {
		return Credential{}, err
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out, &got); err != nil {
		return Credential{}, fmt.Errorf("credential helper %q: answer is not JSON", helper) // the cause could quote a secret
	}
	c := Credential{Server: server, Username: got.Username, Password: got.Secret}
	if got.Username == tokenUser {
		c.Username, c.Password, c.IdentityToken = "", "", got.Secret
	}
	return c, nil
}

// runHelper calls docker-credential-NAME VERB, as docker's credential helper protocol has it: input on
// stdin, the answer on stdout, and a message on stdout when the exit status is not zero.
func runHelper(ctx context.Context, helper, verb string, stdin []byte) ([]byte, error) {
	if strings.ContainsAny(helper, "/\\") {
		return nil, fmt.Errorf("credential helper %q: not a plain name: %w", helper, errdefs.ErrInvalidArgument)
	}
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, verb)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	if _, exited := errors.AsType[*exec.ExitError](err); !exited {
		return nil, fmt.Errorf("credential helper %q: %w", helper, err)
	}
	msg := strings.TrimSpace(string(out))
	if strings.Contains(msg, "credentials not found") {
		return nil, fmt.Errorf("credential helper %q: %w", helper, errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("credential helper %q: %s: %s", helper, verb, msg)
}
