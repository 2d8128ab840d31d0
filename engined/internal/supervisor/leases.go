package supervisor

import (
	"context"
	"fmt"
	"strings"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"

	"strata/pkg/cleanup"
	"strata/pkg/identifiers"
	"strata/pkg/namespaces"
)

// leaseLife bounds how long a lease outlives a client that died.
const leaseLife = 24 * time.Hour

// leasePrefix begins the ids of our leases.
const leasePrefix = "engine-"

// WithLease returns a context in which all that is made is safe from the collector until
// done is called.
func (c *Client) WithLease(ctx context.Context) (_ context.Context, done func(), _ error) {
	leases := leasesapi.NewLeasesClient(c.conn)
	leaseID := leasePrefix + identifiers.Short(identifiers.New())
	c.active.Store(leaseID, true)
	_, err := leases.Create(c.scope(ctx), &leasesapi.CreateRequest{
		ID:     leaseID,
		Labels: map[string]string{"containerd.io/gc.expire": time.Now().Add(leaseLife).UTC().Format(time.RFC3339)},
	})
	if err != nil {
		c.active.Delete(leaseID)
		return nil, nil, fmt.Errorf("take lease: %w", err)
	}
	return namespaces.WithLease(ctx, leaseID), func() {
		cctx, cancel := cleanup.Context(ctx)
		defer cancel()
		defer c.active.Delete(leaseID)
		_, _ = leases.Delete(c.scope(cctx), &leasesapi.DeleteRequest{ID: leaseID}) // else it expires
	}, nil
}

// StaleLeases returns the leases that WithLease took in a process that died, or while the
// supervisor died. Nobody else uses the engine's namespace in that way.
func (c *Client) StaleLeases(ctx context.Context) ([]string, error) {
	resp, err := leasesapi.NewLeasesClient(c.conn).List(c.scope(ctx), &leasesapi.ListRequest{})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var out []string
	for _, l := range resp.GetLeases() {
		if _, active := c.active.Load(l.GetID()); strings.HasPrefix(l.GetID(), leasePrefix) && !active {
			out = append(out, l.GetID())
		}
	}
	return out, nil
}

// DropLease ends a lease of StaleLeases.
func (c *Client) DropLease(ctx context.Context, leaseID string) error {
	_, err := leasesapi.NewLeasesClient(c.conn).Delete(c.scope(ctx), &leasesapi.DeleteRequest{ID: leaseID})
	return err
}

// Hold adds a blob, and all that it refers to, to the lease of ctx.
func (c *Client) Hold(ctx context.Context, contentDigest string) error {
	leaseID, ok := namespaces.Lease(ctx)
	if !ok {
		return nil
	}
	_, err := leasesapi.NewLeasesClient(c.conn).AddResource(c.scope(ctx), &leasesapi.AddResourceRequest{
		ID: leaseID, Resource: &leasesapi.Resource{ID: contentDigest, Type: "content"},
	})
	if err != nil {
		return fmt.Errorf("hold %s: %w", contentDigest, err)
	}
	return nil
}
