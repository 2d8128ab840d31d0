package client

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"

	"strata/pkg/api"
)

// ServerVersion returns the versions of the daemon and its parts.
func (c *Client) ServerVersion(ctx context.Context) (system.VersionResponse, error) {
	var out system.VersionResponse
	err := c.call(ctx, request{method: http.MethodGet, path: "/version"}, &out)
	return out, err
}

// Info describes the daemon and its host, decoded and as the daemon wrote it.
func (c *Client) Info(ctx context.Context) (system.Info, []byte, error) {
	var out system.Info
	raw, err := c.callRaw(ctx, request{method: http.MethodGet, path: "/info"}, &out)
	return out, raw, err
}

// Events opens the stream of events.Message. Since and Until are UNIX seconds with an
// optional fraction, or empty.
func (c *Client) Events(ctx context.Context, since, until string, f Filters) (io.ReadCloser, error) {
	q := f.query()
	setString(q, "since", since)
	setString(q, "until", until)
	return c.stream(ctx, request{method: http.MethodGet, path: "/events", query: q})
}

// Login checks a credential against its registry.
func (c *Client) Login(ctx context.Context, auth registry.AuthConfig) (registry.AuthResponse, error) {
	var out registry.AuthResponse
	err := c.call(ctx, request{method: http.MethodPost, path: "/auth", body: auth}, &out)
	return out, err
}

// Explain asks engined what a container consists of. Other daemons answer ErrNotFound.
func (c *Client) Explain(ctx context.Context, name string) (api.Explanation, error) {
	var out api.Explanation
	path := strings.Replace(api.ExplainRoute, "{id}", name, 1)
	err := c.call(ctx, request{method: http.MethodGet, path: path}, &out)
	return out, err
}

// Doctor asks engined whether anything differs from its records; repair mends what is safe to mend.
func (c *Client) Doctor(ctx context.Context, repair bool) ([]api.Finding, error) {
	method := http.MethodGet
	if repair {
		method = http.MethodPost
	}
	var out []api.Finding
	err := c.call(ctx, request{method: method, path: api.DoctorRoute}, &out)
	return out, err
}

// Dial opens a bare connection to the daemon, for those who speak to it themselves.
func (c *Client) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	return conn, nil
}

// DiskUsage says what takes space. Daemons before API 1.52 answer in another shape, which is
// converted.
func (c *Client) DiskUsage(ctx context.Context) (system.DiskUsage, error) {
	modern, err := c.AtLeast(ctx, "1.52")
	if err != nil {
		return system.DiskUsage{}, err
	}
	r := request{method: http.MethodGet, path: "/system/df"}
	if modern {
		r.query = url.Values{"verbose": {"1"}}
		var out system.DiskUsage
		err = c.call(ctx, r, &out)
		return out, err
	}
	var old legacyDiskUsage
	if err := c.call(ctx, r, &old); err != nil {
		return system.DiskUsage{}, err
	}
	return old.convert(), nil
}
