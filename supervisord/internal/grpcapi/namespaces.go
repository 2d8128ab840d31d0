package grpcapi

import (
	"context"

	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/supervisord/internal/metadata"
)

// namespaceServer translates containerd.services.namespaces.v1.Namespaces.
type namespaceServer struct {
	namespacesapi.UnimplementedNamespacesServer
	store *metadata.Namespaces
}

func wireNamespace(ns metadata.Namespace) *namespacesapi.Namespace {
	return &namespacesapi.Namespace{Name: ns.Name, Labels: ns.Labels}
}

func namespaceOf(ns *namespacesapi.Namespace) metadata.Namespace {
	return metadata.Namespace{Name: ns.Name, Labels: ns.Labels}
}

// Get implements Namespaces. A namespace that is not there yet has no labels: the clients
// of containerd 1.6 (dockerd 20.10 among them) do not start if they hear NotFound.
//
// Source: containerd v1.7.35 metadata/namespaces.go, Labels.
func (s *namespaceServer) Get(ctx context.Context, r *namespacesapi.GetNamespaceRequest) (*namespacesapi.GetNamespaceResponse, error) {
	ns, err := s.store.Get(ctx, r.Name)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	return &namespacesapi.GetNamespaceResponse{Namespace: wireNamespace(ns)}, nil
}

// List implements Namespaces. containerd ignores the filter, and so do we.
func (s *namespaceServer) List(ctx context.Context, _ *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	list, err := s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &namespacesapi.ListNamespacesResponse{}
	for _, ns := range list {
		out.Namespaces = append(out.Namespaces, wireNamespace(ns))
	}
	return out, nil
}

// Create implements Namespaces.
func (s *namespaceServer) Create(ctx context.Context, r *namespacesapi.CreateNamespaceRequest) (*namespacesapi.CreateNamespaceResponse, error) {
	if r.Namespace == nil {
		return nil, missing("namespace")
	}
	ns, err := s.store.Create(ctx, namespaceOf(r.Namespace))
	if err != nil {
		return nil, err
	}
	return &namespacesapi.CreateNamespaceResponse{Namespace: wireNamespace(ns)}, nil
}

// Update implements Namespaces.
func (s *namespaceServer) Update(ctx context.Context, r *namespacesapi.UpdateNamespaceRequest) (*namespacesapi.UpdateNamespaceResponse, error) {
	if r.Namespace == nil {
		return nil, missing("namespace")
	}
	ns, err := s.store.Update(ctx, namespaceOf(r.Namespace), r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &namespacesapi.UpdateNamespaceResponse{Namespace: wireNamespace(ns)}, nil
}

// Delete implements Namespaces.
func (s *namespaceServer) Delete(ctx context.Context, r *namespacesapi.DeleteNamespaceRequest) (*emptypb.Empty, error) {
	return done(s.store.Delete(ctx, r.Name))
}
