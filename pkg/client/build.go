package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/build"

	"strata/pkg/api"
)

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
