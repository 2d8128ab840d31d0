package supervisor

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"strata/pkg/namespaces"
	"strata/pkg/rpc"
)

// Client talks to one supervisor in one namespace. Its methods are safe for concurrent
// use and return errors of errdefs classes; ErrUnavailable means that the supervisor is
// not there at the moment.
type Client struct {
	conn      *grpc.ClientConn
	namespace string
	address   string
	active    sync.Map // the leases that are in use
}

// Dial returns a client of the supervisor on the unix socket address. It does not wait
// for the supervisor. Close it.
func Dial(address, namespace string) (*Client, error) {
	conn, err := rpc.Dial(address)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, namespace: namespace, address: address}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// scope returns ctx in the client's namespace.
func (c *Client) scope(ctx context.Context) context.Context {
	return namespaces.With(ctx, c.namespace)
}
