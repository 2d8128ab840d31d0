package dockerconfig

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// DefaultContext is the name of what holds without a context: the environment or the default socket.
const DefaultContext = "default"

const endpointName = "docker"

// Contexts is the store of named endpoints.
type Contexts struct{ dir string }

// OpenContexts opens the store below the client's directory. It touches no disk.
func OpenContexts(dir string) Contexts { return Contexts{dir: filepath.Join(dir, "contexts")} }

// Context is one named endpoint.
type Context struct {
	Name      string
	Metadata  map[string]any
	Endpoints map[string]Endpoint
}

// Endpoint is where a daemon listens.
type Endpoint struct {
	Host          string `json:"Host,omitempty"`
	SkipTLSVerify bool   `json:"SkipTLSVerify"`
}

// Description is the text that the user gave.
func (c Context) Description() string {
	s, _ := c.Metadata["Description"].(string)
	return s
}

// Host is the address of the daemon; empty is the default one.
func (c Context) Host() string { return c.Endpoints[endpointName].Host }

// Endpoint is the endpoint of the daemon.
func (c Context) Endpoint() Endpoint { return c.Endpoints[endpointName] }

// NewContext makes a context of one endpoint.
func NewContext(name, description string, e Endpoint) Context {
	meta := map[string]any{}
	if description != "" {
		meta["Description"] = description
	}
	return Context{Name: name, Metadata: meta, Endpoints: map[string]Endpoint{endpointName: e}}
}

// ValidContextName says whether name can be a context of the store.
func ValidContextName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("context name cannot be empty: %w", errdefs.ErrInvalidArgument)
	case name == DefaultContext:
		return fmt.Errorf("%q is a reserved context name: %w", name, errdefs.ErrInvalidArgument)
	case !regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$`).MatchString(name):
		return fmt.Errorf("context name %q: want at least two of [a-zA-Z0-9_.+-], the first a letter or digit: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

func contextID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// MetaDir and TLSDir are where the parts of a context lie.
func (s Contexts) MetaDir(name string) string { return filepath.Join(s.dir, "meta", contextID(name)) }

// TLSDir is the directory of the certificates of a context.
func (s Contexts) TLSDir(name string) string { return filepath.Join(s.dir, "tls", contextID(name)) }

// Get returns the context of that name; class ErrNotFound if there is none.
func (s Contexts) Get(name string) (Context, error) {
	c, err := readMeta(filepath.Join(s.MetaDir(name), "meta.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Context{}, fmt.Errorf("context %q: %w", name, errdefs.ErrNotFound)
	}
	return c, err
}

func readMeta(path string) (Context, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Context{}, err
	}
	var c Context
	if err := json.Unmarshal(data, &c); err != nil {
		return Context{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return c, nil
}

// List returns all contexts, by name.
func (s Contexts) List() ([]Context, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "meta"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list contexts: %w", err)
	}
	var out []Context
	for _, e := range entries {
		c, err := readMeta(filepath.Join(s.dir, "meta", e.Name(), "meta.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Context) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// TLSFiles are the PEM texts of an endpoint; each may be missing.
type TLSFiles struct{ CA, Cert, Key []byte }

func (t TLSFiles) byName() map[string][]byte {
	return map[string][]byte{"ca.pem": t.CA, "cert.pem": t.Cert, "key.pem": t.Key}
}

// Put writes a context and its certificates.
func (s Contexts) Put(c Context, files TLSFiles) error {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode context %q: %w", c.Name, err)
	}
	if err := os.MkdirAll(s.MetaDir(c.Name), 0o755); err != nil {
		return fmt.Errorf("make context %q: %w", c.Name, err)
	}
	dir := filepath.Join(s.TLSDir(c.Name), endpointName)
	for name, pem := range files.byName() {
		if len(pem) == 0 {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make context %q: %w", c.Name, err)
		}
		if err := replace(filepath.Join(dir, name), pem); err != nil {
			return fmt.Errorf("write %s of context %q: %w", name, c.Name, err)
		}
	}
	return replace(filepath.Join(s.MetaDir(c.Name), "meta.json"), data)
}

// Remove deletes a context; class ErrNotFound if there is none.
func (s Contexts) Remove(name string) error {
	if _, err := s.Get(name); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(s.TLSDir(name)), os.RemoveAll(s.MetaDir(name)))
}

// TLSFileNames lists the certificates of a context.
func (s Contexts) TLSFileNames(name string) []string {
	entries, _ := os.ReadDir(filepath.Join(s.TLSDir(name), endpointName))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TLS returns the TLS configuration of a context; nil if it has no certificates and wants them
// checked as usual.
func (s Contexts) TLS(name string, e Endpoint) (*tls.Config, error) {
	dir := filepath.Join(s.TLSDir(name), endpointName)
	files := map[string]string{}
	for _, f := range s.TLSFileNames(name) {
		files[f] = filepath.Join(dir, f)
	}
	if len(files) == 0 && !e.SkipTLSVerify {
		return nil, nil
	}
	return LoadTLS(files["ca.pem"], files["cert.pem"], files["key.pem"], !e.SkipTLSVerify)
}

// LoadTLS reads certificates; empty paths are left out.
func LoadTLS(ca, cert, key string, verify bool) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !verify} //nolint:gosec // the user asked for it with --tls without --tlsverify
	if ca != "" && verify {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("could not read CA certificate %q: %w", ca, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA certificate %q: no PEM certificate in it: %w", ca, errdefs.ErrInvalidArgument)
		}
		conf.RootCAs = pool
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("could not load X509 key pair: %w. Make sure the key is not encrypted", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
