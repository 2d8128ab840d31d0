package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/volume"
)

// VolumeCreate makes a volume, or returns the one of that name.
func (c *Client) VolumeCreate(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	var out volume.Volume
	err := c.call(ctx, request{method: http.MethodPost, path: "/volumes/create", body: req}, &out)
	return out, err
}

// VolumeList returns the volumes that match.
func (c *Client) VolumeList(ctx context.Context, f Filters) (volume.ListResponse, error) {
	var out volume.ListResponse
	err := c.call(ctx, request{method: http.MethodGet, path: "/volumes", query: f.query()}, &out)
	return out, err
}

// VolumeInspect returns the volume decoded and as the daemon wrote it.
func (c *Client) VolumeInspect(ctx context.Context, name string) (volume.Volume, []byte, error) {
	var out volume.Volume
	raw, err := c.callRaw(ctx, request{method: http.MethodGet, path: "/volumes/" + name}, &out)
	return out, raw, err
}

// VolumeRemove removes a volume; force makes a missing one no error.
func (c *Client) VolumeRemove(ctx context.Context, name string, force bool) error {
	q := url.Values{}
	setBool(q, "force", force)
	return c.call(ctx, request{method: http.MethodDelete, path: "/volumes/" + name, query: q}, nil)
}

// VolumesPrune removes unused volumes: anonymous ones unless the filter all is set.
func (c *Client) VolumesPrune(ctx context.Context, f Filters) (volume.PruneReport, error) {
	var out volume.PruneReport
	err := c.call(ctx, request{method: http.MethodPost, path: "/volumes/prune", query: f.query()}, &out)
	return out, err
}
