package dockerconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const fileName = "config.json"

// File is config.json: the members that the CLI acts on, and the rest as it was read.
type File struct {
	CurrentContext string
	HTTPHeaders    map[string]string
	CredsStore     string
	CredHelpers    map[string]string
	DetachKeys     string
	Proxies        map[string]Proxy
	Formats        Formats

	auths map[string]authEntry
	raw   map[string]json.RawMessage
	path  string
}

// Formats are the user's default templates of the list commands.
type Formats struct{ Ps, Images, Volumes, Networks, Stats string }

// Proxy holds the proxy variables that containers of one daemon (or "default") get.
type Proxy struct {
	HTTPProxy  string `json:"httpProxy,omitempty"`
	HTTPSProxy string `json:"httpsProxy,omitempty"`
	NoProxy    string `json:"noProxy,omitempty"`
	FTPProxy   string `json:"ftpProxy,omitempty"`
	AllProxy   string `json:"allProxy,omitempty"`
}

type authEntry struct {
	Auth          string `json:"auth,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// Dir is the directory of the client's files: DOCKER_CONFIG, or .docker in the home directory.
func Dir() string {
	if d := os.Getenv("DOCKER_CONFIG"); d != "" {
		return d
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	return filepath.Join(home, ".docker")
}

// Load reads dir/config.json. A missing file is an empty configuration.
func Load(dir string) (*File, error) {
	f := &File{path: filepath.Join(dir, fileName), raw: map[string]json.RawMessage{}, auths: map[string]authEntry{}}
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(data)) == "" {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("read client configuration: %w", err)
	}
	if err := json.Unmarshal(data, &f.raw); err != nil {
		return f, fmt.Errorf("parse %s: %w", f.path, err)
	}
	for name, dst := range f.members() {
		if v, ok := f.member(name); ok {
			if err := json.Unmarshal(v, dst); err != nil {
				return f, fmt.Errorf("parse %s: member %q: %w", f.path, name, err)
			}
		}
	}
	return f, nil
}

func (f *File) members() map[string]any {
	return map[string]any{
		"currentContext": &f.CurrentContext,
		"HttpHeaders":    &f.HTTPHeaders,
		"credsStore":     &f.CredsStore,
		"credHelpers":    &f.CredHelpers,
		"detachKeys":     &f.DetachKeys,
		"proxies":        &f.Proxies,
		"psFormat":       &f.Formats.Ps,
		"imagesFormat":   &f.Formats.Images,
		"volumesFormat":  &f.Formats.Volumes,
		"networksFormat": &f.Formats.Networks,
		"statsFormat":    &f.Formats.Stats,
		"auths":          &f.auths,
	}
}

// member finds a member whatever its letter case, as encoding/json would.
func (f *File) member(name string) (json.RawMessage, bool) {
	if v, ok := f.raw[name]; ok {
		return v, true
	}
	for k, v := range f.raw {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return nil, false
}

// set changes one member of the file; an empty value removes it.
func (f *File) set(name string, value any, empty bool) error {
	for k := range f.raw {
		if strings.EqualFold(k, name) {
			delete(f.raw, k)
		}
	}
	if empty {
		return nil
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode member %q: %w", name, err)
	}
	f.raw[name] = data
	return nil
}

// SetCurrentContext chooses the context that commands use; "" and "default" are none.
func (f *File) SetCurrentContext(name string) error {
	if name == "default" {
		name = ""
	}
	f.CurrentContext = name
	if err := f.set("currentContext", name, name == ""); err != nil {
		return err
	}
	return f.save()
}

// save replaces the file. It follows a symlink at its place, so that a file kept elsewhere stays there.
func (f *File) save() error {
	data, err := json.MarshalIndent(f.raw, "", "\t")
	if err != nil {
		return fmt.Errorf("encode client configuration: %w", err)
	}
	path := f.path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of client configuration: %w", err)
	}
	return replace(path, append(data, '\n'))
}

// replace writes a file of mode 0600 beside path and renames it over path.
func replace(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// ProxyEnv returns the variables that containers of the daemon at host get, upper and lower
// case, unless skip says that the user has set them.
func (f *File) ProxyEnv(host string, skip func(name string) bool) []string {
	p, ok := f.Proxies[host]
	if !ok {
		p = f.Proxies["default"]
	}
	var env []string
	for _, v := range []struct{ name, value string }{
		{"HTTP_PROXY", p.HTTPProxy},
		{"HTTPS_PROXY", p.HTTPSProxy},
		{"NO_PROXY", p.NoProxy},
		{"FTP_PROXY", p.FTPProxy},
		{"ALL_PROXY", p.AllProxy},
	} {
		if v.value == "" {
			continue
		}
		for _, name := range []string{v.name, strings.ToLower(v.name)} {
			if !skip(name) {
				env = append(env, name+"="+v.value)
			}
		}
	}
	return env
}
