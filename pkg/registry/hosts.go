package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// dockerHub is the registry behind the name docker.io.
const dockerHub = "registry-1.docker.io"

// capability is what a host may be used for.
type capability uint8

const (
	canPull capability = 1 << iota
	canResolve
	canPush
	canAll = canPull | canResolve | canPush
)

// host is one way to a registry.
type host struct {
	base   url.URL // scheme, host and path prefix, ending in "/v2"
	can    capability
	header http.Header
	client *http.Client
	mirror bool   // not the registry that the reference names
	either bool   // base says https, but http will do
	name   string // whose credentials it gets
}

// owns reports whether u is of the host's origin, so that it may see credentials.
func (h host) owns(u *url.URL) bool {
	return strings.EqualFold(u.Host, h.base.Host) && (u.Scheme == h.base.Scheme || h.either)
}

// hostFile is one table of a hosts.toml. Source: containerd docs/hosts.md.
type hostFile struct {
	Server       string         `toml:"server"`
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`

	Hosts map[string]hostFile `toml:"host"`
}

// hostsOf returns the ways to registry name, in the order to try.
func (c *Client) hostsOf(name string, opts Options) ([]host, error) {
	for _, dir := range append(filepath.SplitList(opts.HostDir), filepath.SplitList(c.cfg.HostDir)...) {
		file, ok := findHostDir(dir, name)
		if !ok {
			continue
		}
		hosts, err := c.readHostDir(file, name, opts)
		if err != nil {
			return nil, fmt.Errorf("read registry hosts of %s: %w", name, err)
		}
		if hosts != nil {
			return hosts, nil
		}
	}
	h, err := c.defaultHost(name, opts, hostFile{}, "")
	if err != nil {
		return nil, err
	}
	return []host{h}, nil
}

// findHostDir returns the directory of a registry below root. A colon may be written as
// containerd does where the filesystem has none.
func findHostDir(root, name string) (string, bool) {
	names := []string{name}
	if h, port, err := net.SplitHostPort(name); err == nil {
		names = append(names, h+"_"+port+"_")
	}
	for _, n := range append(names, "_default") {
		dir := filepath.Join(root, n)
		if filepath.Dir(dir) != filepath.Clean(root) {
			continue // a name never leaves the root
		}
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir, true
		}
	}
	return "", false
}

// readHostDir reads DIR/hosts.toml, or docker's DIR/*.{crt,cert,key}; nil hosts mean that
// there is nothing to follow.
func (c *Client) readHostDir(dir, name string, opts Options) ([]host, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "hosts.toml"))
	if errors.Is(err, fs.ErrNotExist) {
		f, err := dockerCerts(dir)
		if err != nil || (f.CA == nil && f.Client == nil) {
			return nil, err
		}
		h, err := c.defaultHost(name, opts, f, dir)
		return []host{h}, err
	}
	if err != nil {
		return nil, err
	}
	var f hostFile
	if err := toml.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("parse %s: %w: %w", filepath.Join(dir, "hosts.toml"), err, errdefs.ErrInvalidArgument)
	}
	var hosts []host
	for _, server := range tableOrder(raw) {
		h, err := c.fileHost(server, f.Hosts[server], dir)
		if err != nil {
			return nil, err
		}
		h.mirror, h.name = h.base.Host != name, h.base.Host
		hosts = append(hosts, h)
	}
	last := f
	last.Hosts = nil
	if f.Server == "" {
		h, err := c.defaultHost(name, opts, last, dir)
		return append(hosts, h), err
	}
	h, err := c.fileHost(f.Server, last, dir)
	h.name = ServerName(name)
	return append(hosts, h), err
}

// ServerName returns the name of the registry behind the domain of a reference:
// "registry-1.docker.io" for docker.io, and the domain itself for all others.
func ServerName(domain string) string {
	if domain == "docker.io" || domain == "index.docker.io" {
		return dockerHub
	}
	return domain
}

// tableOrder returns the keys of the [host."…"] tables as the file has them: their order
// is the order of preference, which a map forgets.
func tableOrder(raw []byte) []string {
	var p unstable.Parser
	p.Reset(raw)
	var keys []string
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		it := e.Key()
		if !it.Next() || string(it.Node().Data) != "host" || !it.Next() {
			continue
		}
		if key := string(it.Node().Data); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// fileHost makes a host of a table for server, a URL or a bare host.
func (c *Client) fileHost(server string, f hostFile, dir string) (host, error) {
	if !strings.Contains(server, "://") {
		scheme := "https://"
		if isLoopback(server) {
			scheme = "http://"
		}
		server = scheme + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return host{}, fmt.Errorf("registry host %q is not an http or https URL: %w", server, errdefs.ErrInvalidArgument)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	if !f.OverridePath && !strings.HasSuffix(u.Path, "/v2") {
		u.Path += "/v2"
	}
	can, err := capabilities(f.Capabilities)
	if err != nil {
		return host{}, err
	}
	client, err := c.httpClient(f, dir, false)
	if err != nil {
		return host{}, err
	}
	return host{base: url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, can: can, header: header(f.Header), client: client}, nil
}

// defaultHost is the registry itself: https, or for loopback and by opts whatever of https
// and http it speaks.
func (c *Client) defaultHost(name string, opts Options, f hostFile, dir string) (host, error) {
	name = ServerName(name)
	can, err := capabilities(f.Capabilities)
	if err != nil {
		return host{}, err
	}
	scheme, fallback := "https", isLoopback(name)
	if opts.Scheme != "" {
		scheme, fallback = opts.Scheme, false
	}
	client, err := c.httpClient(f, dir, fallback)
	if err != nil {
		return host{}, err
	}
	return host{base: url.URL{Scheme: scheme, Host: name, Path: "/v2"}, can: can, header: header(f.Header), client: client, either: fallback, name: name}, nil
}

func capabilities(names []string) (capability, error) {
	if len(names) == 0 {
		return canAll, nil
	}
	var can capability
	for _, n := range names {
		switch strings.ToLower(n) {
		case "pull":
			can |= canPull
		case "resolve":
			can |= canResolve
		case "push":
			can |= canPush
		default:
			return 0, fmt.Errorf("registry host capability %q is unknown: %w", n, errdefs.ErrInvalidArgument)
		}
	}
	return can, nil
}

func header(m map[string]any) http.Header {
	h := http.Header{}
	for k, v := range m {
		switch v := v.(type) {
		case string:
			h.Add(k, v)
		case []any:
			for _, s := range v {
				h.Add(k, fmt.Sprint(s))
			}
		}
	}
	return h
}

// dockerCerts reads a directory of docker's kind: *.crt are authorities, X.cert with X.key
// is a client's.
func dockerCerts(dir string) (hostFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return hostFile{}, err
	}
	var f hostFile
	var cas, pairs []any
	for _, e := range entries {
		switch n := e.Name(); filepath.Ext(n) {
		case ".crt":
			cas = append(cas, n)
		case ".cert":
			pairs = append(pairs, []any{n, strings.TrimSuffix(n, ".cert") + ".key"})
		}
	}
	if cas != nil {
		f.CA = cas
	}
	if pairs != nil {
		f.Client = pairs
	}
	return f, nil
}

// isLoopback reports whether name, with or without a port, is this machine.
func isLoopback(name string) bool {
	h := name
	if s, _, err := net.SplitHostPort(name); err == nil {
		h = s
	}
	if h == "localhost" || strings.HasSuffix(h, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(h, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

// httpClient returns a client with the TLS settings of f. Clients without settings of
// their own share one pool of connections. With fallback it speaks whatever of https
// (unverified) and http the other side does.
func (c *Client) httpClient(f hostFile, dir string, fallback bool) (*http.Client, error) {
	skip := f.SkipVerify != nil && *f.SkipVerify
	if f.CA == nil && f.Client == nil && f.DialTimeout == "" {
		switch {
		case fallback:
			return client(c.loopback), nil
		case skip:
			return client(c.unverified), nil
		}
		return client(c.verified), nil
	}
	cfg, err := tlsConfig(f, dir)
	if err != nil {
		return nil, err
	}
	cfg.InsecureSkipVerify = skip
	t := newTransport(cfg)
	if f.DialTimeout != "" {
		d, err := time.ParseDuration(f.DialTimeout)
		if err != nil {
			return nil, fmt.Errorf("dial_timeout %q: %w: %w", f.DialTimeout, err, errdefs.ErrInvalidArgument)
		}
		t.DialContext = (&net.Dialer{Timeout: d, KeepAlive: 30 * time.Second}).DialContext
	}
	t.IdleConnTimeout = 5 * time.Second // belongs to one Repository only
	return client(t), nil
}

func tlsConfig(f hostFile, dir string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	abs := func(v any) string {
		p := fmt.Sprint(v)
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		return p
	}
	if f.CA != nil {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, ca := range list(f.CA) {
			pem, err := os.ReadFile(abs(ca))
			if err != nil {
				return nil, fmt.Errorf("read ca: %w", err)
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("ca %s holds no certificate: %w", abs(ca), errdefs.ErrInvalidArgument)
			}
		}
		cfg.RootCAs = pool
	}
	for _, pair := range pairs(f.Client) {
		cert, err := tls.LoadX509KeyPair(abs(pair[0]), abs(pair[1]))
		if err != nil {
			return nil, fmt.Errorf("load client certificate: %w", err)
		}
		cfg.Certificates = append(cfg.Certificates, cert)
	}
	return cfg, nil
}

// list reads "x" or ["x", …].
func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	if v == nil {
		return nil
	}
	return []any{v}
}

// pairs reads "both.pem", ["both.pem"] or [["cert", "key"], …].
func pairs(v any) [][2]any {
	var out [][2]any
	for _, e := range list(v) {
		p, ok := e.([]any)
		switch {
		case !ok:
			out = append(out, [2]any{e, e})
		case len(p) >= 2 && fmt.Sprint(p[1]) != "":
			out = append(out, [2]any{p[0], p[1]})
		case len(p) >= 1:
			out = append(out, [2]any{p[0], p[0]})
		}
	}
	return out
}
