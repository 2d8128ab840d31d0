package supervisor

import (
	"context"
	"fmt"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"

	"strata/pkg/cleanup"
	"strata/pkg/identifiers"
	"strata/pkg/namespaces"
)

// leaseLife bounds how long a lease outlives a client that died.
const leaseLife = 24 * time.Hour

// WithLease returns a context in which all that is made is safe from the collector until
// done is called.
func (c *Client) WithLease(ctx context.Context) (_ context.Context, done func(), _ error) {
	leases := leasesapi.NewLeasesClient(c.conn)
	resp, err := leases.Create(c.scope(ctx), &leasesapi.CreateRequest{
		ID:     "engine-" + identifiers.Short(identifiers.New()),
		Labels: map[string]string{"containerd.io/gc.expire": time.Now().Add(leaseLife).UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("take lease: %w", err)
	}
	leaseID := resp.GetLease().GetID()
	return namespaces.WithLease(ctx, leaseID), func() {
		cctx, cancel := cleanup.Context(ctx)
		defer cancel()
		_, _ = leases.Delete(c.scope(cctx), &leasesapi.DeleteRequest{ID: leaseID}) // else it expires
	}, nil
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
