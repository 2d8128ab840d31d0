package client

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/container"
)

// ExecCreate prepares a process in a running container and returns its id.
func (c *Client) ExecCreate(ctx context.Context, name string, req container.ExecCreateRequest) (string, error) {
	var out container.ExecCreateResponse
	err := c.call(ctx, request{method: http.MethodPost, path: containerPath(name, "/exec"), body: req}, &out)
	return out.ID, err
}

// ExecStart starts a prepared process and connects to its streams.
func (c *Client) ExecStart(ctx context.Context, execID string, req container.ExecStartRequest) (*Stream, error) {
	return c.hijack(ctx, request{method: http.MethodPost, path: "/exec/" + execID + "/start", body: req})
}

// ExecStartDetached starts a prepared process and leaves it alone.
func (c *Client) ExecStartDetached(ctx context.Context, execID string, tty bool) error {
	req := container.ExecStartRequest{Detach: true, Tty: tty}
	return c.call(ctx, request{method: http.MethodPost, path: "/exec/" + execID + "/start", body: req}, nil)
}

// ExecInspect returns the status of a process started by ExecStart.
func (c *Client) ExecInspect(ctx context.Context, execID string) (container.ExecInspectResponse, error) {
	var out container.ExecInspectResponse
	err := c.call(ctx, request{method: http.MethodGet, path: "/exec/" + execID + "/json"}, &out)
	return out, err
}

// ExecResize sets the size of the terminal of a process.
func (c *Client) ExecResize(ctx context.Context, execID string, height, width uint) error {
	return c.post(ctx, "/exec/"+execID+"/resize", sizeQuery(height, width))
}
