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

// BuildPruneOptions say what of the build cache goes. Sizes are as the user writes them
// ("2GB"); "" for none.
type BuildPruneOptions struct {
	All           bool
	Filters       Filters
	ReservedSpace string // always stays
	MaxUsedSpace  string // may stay
	MinFreeSpace  string // is to be free on the disk
}

// BuildPrune removes build cache.
func (c *Client) BuildPrune(ctx context.Context, o BuildPruneOptions) (build.CachePruneReport, error) {
	q := url.Values{}
	o.Filters.addTo(q)
	setBool(q, "all", o.All)
	setString(q, "keep-storage", o.ReservedSpace) // what daemons before 1.48 call it
	setString(q, "reserved-space", o.ReservedSpace)
	setString(q, "max-used-space", o.MaxUsedSpace)
	setString(q, "min-free-space", o.MinFreeSpace)
	var out build.CachePruneReport
	err := c.call(ctx, request{method: http.MethodPost, path: "/build/prune", query: q}, &out)
	return out, err
}
