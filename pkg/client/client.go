package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"strata/pkg/api"
)

const (
	// MaxVersion is the newest API version that this client speaks.
	MaxVersion = "1.52"
	// minVersion is the oldest: what a daemon without an Api-Version header is taken for.
	minVersion = "1.24"
	// DefaultHost is where engined listens.
	DefaultHost = "unix:///run/strata/engine.sock"
)

// Options say which daemon to talk to and how. The zero value is DefaultHost, negotiated.
type Options struct {
	// Host is unix://PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT][/SOCKET].
	Host string
	// TLS, when set, wraps tcp connections.
	TLS *tls.Config
	// Version pins the API version ("1.44"); empty negotiates.
	Version string
	// Header is sent with every request (HttpHeaders of the client's configuration).
	Header map[string]string
	// UserAgent is sent with every request.
	UserAgent string
	// Trace, when set, is sent as api.TraceHeader with every request.
	Trace string
}

// Client is one daemon seen through its API.
type Client struct {
	opts Options
	http *http.Client
	dial func(context.Context) (net.Conn, error)

	mu      sync.Mutex
	version string // negotiated; empty until the first call
}

// Ping is what a daemon says about itself in the headers of /_ping.
type Ping struct {
	APIVersion     string
	OSType         string
	BuilderVersion string
	Swarm          string
	Experimental   bool
}

// New prepares a client. It touches no network. Errors are of class ErrInvalidArgument.
func New(opts Options) (*Client, error) {
	if opts.Host == "" {
		opts.Host = DefaultHost
	}
	dial, err := dialer(opts)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:  true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     30 * time.Second,
	}
	return &Client{
		opts:    opts,
		dial:    dial,
		http:    &http.Client{Transport: transport, CheckRedirect: neverFollow},
		version: strings.TrimPrefix(opts.Version, "v"),
	}, nil
}

func neverFollow(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Host is the address of the daemon, as a URL.
func (c *Client) Host() string { return c.opts.Host }

// Close drops idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Version is the API version in use. It asks the daemon once, on first use.
func (c *Client) Version(ctx context.Context) (string, error) {
	c.mu.Lock()
	v := c.version
	c.mu.Unlock()
	if v != "" {
		return v, nil
	}
	p, err := c.Ping(ctx)
	if err != nil {
		return "", err
	}
	v = p.APIVersion
	if v == "" {
		v = minVersion
	}
	if LessThan(MaxVersion, v) {
		v = MaxVersion
	}
	c.mu.Lock()
	c.version = v
	c.mu.Unlock()
	return v, nil
}

// AtLeast says whether the negotiated version is v or newer.
func (c *Client) AtLeast(ctx context.Context, v string) (bool, error) {
	have, err := c.Version(ctx)
	if err != nil {
		return false, err
	}
	return !LessThan(have, v), nil
}

// Ping asks the daemon for its versions: HEAD first, GET for those that do not know HEAD.
func (c *Client) Ping(ctx context.Context) (Ping, error) {
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		resp, err := c.send(ctx, request{method: method, path: "/_ping"}, "")
		if err != nil {
			return Ping{}, err
		}
		drain(resp)
		if resp.StatusCode == http.StatusOK || method == http.MethodGet {
			p := Ping{
				APIVersion:     resp.Header.Get("Api-Version"),
				OSType:         resp.Header.Get("Ostype"),
				BuilderVersion: resp.Header.Get("Builder-Version"),
				Swarm:          resp.Header.Get("Swarm"),
				Experimental:   resp.Header.Get("Docker-Experimental") == "true",
			}
			if p.APIVersion == "" && resp.StatusCode >= 400 {
				return Ping{}, &Error{Status: resp.StatusCode, Message: http.StatusText(resp.StatusCode)}
			}
			return p, nil
		}
	}
	return Ping{}, nil
}

// LessThan compares two API versions ("1.9" < "1.41").
func LessThan(a, b string) bool {
	am, an := splitVersion(a)
	bm, bn := splitVersion(b)
	return am < bm || am == bm && an < bn
}

func splitVersion(v string) (major, minor int) {
	a, b, _ := strings.Cut(v, ".")
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(b)
	return major, minor
}

// request is one call: body is nil, an io.Reader (sent as it is) or a value (sent as JSON).
type request struct {
	method string
	path   string
	query  url.Values
	header http.Header
	body   any
}

// do sends r below the negotiated version and turns answers of 400 and above into *Error.
// The caller closes the body of the response.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	version, err := c.Version(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, r, version)
	if err != nil {
		return nil, err
	}
	return resp, checkStatus(resp)
}

func (c *Client) send(ctx context.Context, r request, version string) (*http.Response, error) {
	req, err := c.newRequest(ctx, r, version)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	return resp, nil
}

func (c *Client) newRequest(ctx context.Context, r request, version string) (*http.Request, error) {
	body, contentType, err := encodeBody(r.body)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", r.method, r.path, err)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://api.engine.localhost", body)
	if err != nil {
		return nil, fmt.Errorf("prepare %s %s: %w", r.method, r.path, err)
	}
	req.URL.Path = r.path
	if version != "" {
		req.URL.Path = "/v" + version + r.path
	}
	req.URL.RawQuery = r.query.Encode()
	for k, v := range c.opts.Header {
		req.Header.Set(k, v)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	maps.Copy(req.Header, r.header)
	if c.opts.UserAgent != "" {
		req.Header.Set("User-Agent", c.opts.UserAgent)
	}
	if c.opts.Trace != "" {
		req.Header.Set(api.TraceHeader, c.opts.Trace)
	}
	return req, nil
}

func encodeBody(body any) (io.Reader, string, error) {
	switch b := body.(type) {
	case nil:
		return nil, "", nil
	case io.Reader:
		return b, "application/x-tar", nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, "", err
	}
	return bytes.NewReader(data), "application/json", nil
}

// transportError tells an interrupted call from a daemon that is not there.
func (c *Client) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return &ConnectError{Host: c.opts.Host, Err: err}
}

// call sends r and decodes the JSON answer into out, which may be nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer drain(resp)
	if out == nil || resp.StatusCode == http.StatusNotModified || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("decode answer to %s %s: %w", r.method, r.path, err)
	}
	return nil
}

// callRaw is call that also returns the answer as the daemon wrote it.
func (c *Client) callRaw(ctx context.Context, r request, out any) ([]byte, error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer to %s %s: %w", r.method, r.path, err)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("decode answer to %s %s: %w", r.method, r.path, err)
	}
	return raw, nil
}

// stream sends r and hands the body of the answer to the caller, who closes it.
func (c *Client) stream(ctx context.Context, r request) (io.ReadCloser, error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// drain lets the connection be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 1<<16)
	_ = resp.Body.Close()
}
