package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"strata/pkg/imageref"

	"github.com/containerd/errdefs"
)

// Config is what a client knows about registries. The zero Config asks registries
// directly.
type Config struct {
	// HostDir is a list of directories, separated by colons, that hold HOST/hosts.toml
	// (containerd's format) or HOST/*.crt (docker's). The first that knows a host wins.
	HostDir   string
	UserAgent string
}

// Client opens repositories and shares connections between them. It is safe for
// concurrent use.
type Client struct {
	cfg        Config
	verified   http.RoundTripper
	unverified http.RoundTripper
	loopback   http.RoundTripper
}

// New returns a client. It starts nothing; idle connections end by themselves.
func New(cfg Config) *Client {
	if cfg.UserAgent == "" {
		cfg.UserAgent = "strata"
	}
	insecure := newTransport(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // asked for by name, or loopback
	return &Client{
		cfg:        cfg,
		verified:   newTransport(&tls.Config{MinVersion: tls.VersionTLS12}),
		unverified: insecure,
		loopback:   &eitherScheme{next: insecure, plain: map[string]bool{}},
	}
}

// Options go with one transfer.
type Options struct {
	// HostDir comes before the client's own.
	HostDir string
	// Scheme, "http" or "https", is for hosts that no file describes; "" means https,
	// and either for loopback.
	Scheme string
	// Header is sent with each request to the registry.
	Header http.Header
	// Credentials answers challenges; nil means anonymous.
	Credentials CredentialFunc
}

// Repository is one repository of one registry, for one transfer: it remembers tokens.
// It is safe for concurrent use.
type Repository struct {
	ref   imageref.Name // without a tag if it has a digest
	hosts []host
	auth  *authorizer
	agent string
	extra http.Header
}

// Repository opens the repository of a reference such as "docker.io/library/busybox:1".
// A reference without a domain is docker's. It contacts nobody. Errors are of class
// ErrInvalidArgument.
func (c *Client) Repository(ref string, opts Options) (*Repository, error) {
	name, err := imageref.Parse(ref)
	if err != nil {
		return nil, fmt.Errorf("reference %q: %w", ref, err)
	}
	if name = name.Tagged(); name.Digest != "" {
		name.Tag = ""
	}
	if opts.Scheme != "" && opts.Scheme != "http" && opts.Scheme != "https" {
		return nil, fmt.Errorf("registry scheme %q: %w", opts.Scheme, errdefs.ErrInvalidArgument)
	}
	hosts, err := c.hostsOf(name.Domain, opts)
	if err != nil {
		return nil, err
	}
	return &Repository{
		ref: name, hosts: hosts,
		auth: newAuthorizer(opts.Credentials), agent: c.cfg.UserAgent, extra: opts.Header,
	}, nil
}

// Reference returns the reference with its defaults filled in.
func (r *Repository) Reference() string { return r.ref.String() }

// Host returns the name of the registry, Path that of the repository in it.
func (r *Repository) Host() string { return r.ref.Domain }

// Path returns the name of the repository without the registry's.
func (r *Repository) Path() string { return r.ref.Path }

// tagOrDigest returns what the reference names within the repository.
func (r *Repository) tagOrDigest() string {
	if r.ref.Digest != "" {
		return r.ref.Digest
	}
	return r.ref.Tag
}

// newTransport returns a transport for large bodies: nothing is decompressed behind our
// back, and proxies come from the environment.
func newTransport(cfg *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       cfg,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		ExpectContinueTimeout: 5 * time.Second,
		IdleConnTimeout:       60 * time.Second,
		MaxIdleConnsPerHost:   16,
		DisableCompression:    true,
		ForceAttemptHTTP2:     true,
		ReadBufferSize:        64 << 10,
	}
}

// client follows redirects with credentials left at home: blobs often live on somebody
// else's storage.
func client(t http.RoundTripper) *http.Client {
	_, either := t.(*eitherScheme)
	return &http.Client{Transport: t, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		first := via[0].URL
		if first.Scheme == "https" && req.URL.Scheme != "https" && !either {
			return fmt.Errorf("refused a redirect from https to %s", req.URL.Scheme)
		}
		for _, hop := range append(via[1:len(via):len(via)], req) {
			if !sameOrigin(first, hop.URL) && !(either && strings.EqualFold(first.Host, hop.URL.Host)) {
				keep := http.Header{}
				for _, k := range []string{"Accept", "Range", "User-Agent"} {
					if v, ok := req.Header[k]; ok {
						keep[k] = v
					}
				}
				req.Header = keep
				return nil
			}
		}
		return nil
	}}
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// eitherScheme tries https and falls back to http where the other side does not speak
// TLS; it remembers which. Only for registries of this machine.
type eitherScheme struct {
	next http.RoundTripper

	mu    sync.Mutex
	plain map[string]bool
}

// RoundTrip implements http.RoundTripper.
func (t *eitherScheme) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return t.next.RoundTrip(req)
	}
	t.mu.Lock()
	plain, known := t.plain[req.URL.Host]
	t.mu.Unlock()
	if !known {
		var err error
		if plain, err = t.probe(req.Context(), req.URL); err != nil {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
	}
	if !plain {
		return t.next.RoundTrip(req)
	}
	over := req.Clone(req.Context())
	over.URL.Scheme = "http"
	resp, err := t.next.RoundTrip(over)
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

// probe finds out with a request without a body, so that none is sent in vain.
func (t *eitherScheme) probe(ctx context.Context, u *url.URL) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+u.Host+"/v2/", nil)
	if err != nil {
		return false, err
	}
	resp, err := t.next.RoundTrip(req)
	var notTLS tls.RecordHeaderError
	switch {
	case err == nil:
		_ = resp.Body.Close()
	case errors.As(err, &notTLS), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"), strings.HasSuffix(err.Error(), "EOF"), strings.Contains(err.Error(), "connection reset"):
	default:
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.plain[u.Host] = err != nil
	return err != nil, nil
}
