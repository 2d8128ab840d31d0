package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/registry"

	"strata/pkg/api"
)

// BuildImage describes the image that ImageBuild makes. Query holds the options of
// POST /build.
type BuildImage struct {
	Query   url.Values
	Auth    map[string]registry.AuthConfig
	Secrets map[string][]byte // our daemon only
	Events  bool              // ask for api.BuildEvents; a foreign daemon sends text
}

// ImageBuild makes an image of a context, a tar; the stream is of jsonstream messages.
func (c *Client) ImageBuild(ctx context.Context, tar io.Reader, opts BuildImage) (io.ReadCloser, error) {
	h := http.Header{"Content-Type": {"application/x-tar"}}
	if len(opts.Auth) > 0 {
		raw, err := json.Marshal(opts.Auth)
		if err != nil {
			return nil, err
		}
		h.Set("X-Registry-Config", base64.URLEncoding.EncodeToString(raw))
	}
	if len(opts.Secrets) > 0 {
		raw, err := json.Marshal(opts.Secrets)
		if err != nil {
			return nil, err
		}
		h.Set(api.SecretsHeader, base64.URLEncoding.EncodeToString(raw))
	}
	if opts.Events {
		h.Set(api.BuildEventsHeader, "1")
	}
	return c.stream(ctx, request{method: http.MethodPost, path: "/build", query: opts.Query, header: h, body: tar})
}

// BuildUsage lists the build cache of our daemon.
func (c *Client) BuildUsage(ctx context.Context) ([]build.CacheRecord, error) {
	var out []build.CacheRecord
	err := c.call(ctx, request{method: http.MethodGet, path: api.BuildUsageRoute}, &out)
	return out, err
}

// BuildPrune removes build cache. keep is what may stay, as the user writes it ("2GB"); ""
// for nothing.
func (c *Client) BuildPrune(ctx context.Context, f Filters, all bool, keep string) (build.CachePruneReport, error) {
	q := url.Values{}
	f.addTo(q)
	setBool(q, "all", all)
	setString(q, "keep-storage", keep)
	var out build.CachePruneReport
	err := c.call(ctx, request{method: http.MethodPost, path: "/build/prune", query: q}, &out)
	return out, err
}
