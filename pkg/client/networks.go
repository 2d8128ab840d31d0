package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/network"
)

// NetworkCreate makes a network.
func (c *Client) NetworkCreate(ctx context.Context, req network.CreateRequest) (network.CreateResponse, error) {
	always, err := c.AtLeast(ctx, "1.44")
	if err != nil {
		return network.CreateResponse{}, err
	}
	body := struct {
		network.CreateRequest
		CheckDuplicate bool `json:",omitempty"` // before, a daemon looks for the name only when asked
	}{req, !always}
	var out network.CreateResponse
	err = c.call(ctx, request{method: http.MethodPost, path: "/networks/create", body: body}, &out)
	return out, err
}

// NetworkList returns the networks that match.
func (c *Client) NetworkList(ctx context.Context, f Filters) ([]network.Summary, error) {
	var out []network.Summary
	err := c.call(ctx, request{method: http.MethodGet, path: "/networks", query: f.query()}, &out)
	return out, err
}

// NetworkInspect returns the network decoded and as the daemon wrote it.
func (c *Client) NetworkInspect(ctx context.Context, name string, verbose bool) (network.Inspect, []byte, error) {
	q := url.Values{}
	setBool(q, "verbose", verbose)
	var out network.Inspect
	raw, err := c.callRaw(ctx, request{method: http.MethodGet, path: "/networks/" + name, query: q}, &out)
	return out, raw, err
}

// NetworkConnect joins a container to a network.
func (c *Client) NetworkConnect(ctx context.Context, name string, req network.ConnectRequest) error {
	return c.call(ctx, request{method: http.MethodPost, path: "/networks/" + name + "/connect", body: req}, nil)
}

// NetworkDisconnect takes a container off a network.
func (c *Client) NetworkDisconnect(ctx context.Context, name, containerName string, force bool) error {
	req := network.DisconnectRequest{Container: containerName, Force: force}
	return c.call(ctx, request{method: http.MethodPost, path: "/networks/" + name + "/disconnect", body: req}, nil)
}

// NetworkRemove removes a network.
func (c *Client) NetworkRemove(ctx context.Context, name string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: "/networks/" + name}, nil)
}

// NetworksPrune removes networks without containers.
func (c *Client) NetworksPrune(ctx context.Context, f Filters) (network.PruneReport, error) {
	var out network.PruneReport
	err := c.call(ctx, request{method: http.MethodPost, path: "/networks/prune", query: f.query()}, &out)
	return out, err
}
