package grpcapi

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/supervisord/internal/filters"
	"strata/supervisord/internal/shims"
)

// Plugin is a part of the daemon in the words of containerd's introspection, by which
// clients learn what it can do.
type Plugin struct {
	Type         string // "io.containerd.snapshotter.v1"
	ID           string // "overlayfs"
	Exports      map[string]string
	Capabilities []string
	Err          error // why it cannot be used; nil if it can
}

// Introspection is what the daemon says of itself.
type Introspection struct {
	UUID    string // the same across restarts
	Plugins []Plugin
	Runtime *shims.Launcher
}

type introspectionServer struct {
	introspectionapi.UnimplementedIntrospectionServer
	self Introspection
}

// RegisterIntrospection adds the introspection service to a server.
func RegisterIntrospection(s *grpc.Server, self Introspection) {
	introspectionapi.RegisterIntrospectionServer(s, &introspectionServer{self: self})
}

// Server implements Introspection.
func (s *introspectionServer) Server(context.Context, *emptypb.Empty) (*introspectionapi.ServerResponse, error) {
	return &introspectionapi.ServerResponse{UUID: s.self.UUID, Pid: uint64(os.Getpid()), Pidns: pidNamespace()}, nil
}

// pidNamespace returns the inode of our pid namespace, or zero: "pid:[4026531836]".
func pidNamespace() uint64 {
	link, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return 0
	}
	var n uint64
	if _, err := fmt.Sscanf(link, "pid:[%d]", &n); err != nil {
		return 0
	}
	return n
}

// Plugins implements Introspection.
func (s *introspectionServer) Plugins(_ context.Context, r *introspectionapi.PluginsRequest) (*introspectionapi.PluginsResponse, error) {
	var f filters.Filter
	if len(r.Filters) > 0 {
		var err error
		if f, err = filters.ParseAll(r.Filters...); err != nil {
			return nil, err
		}
	}
	resp := &introspectionapi.PluginsResponse{}
	for _, p := range s.self.Plugins {
		if f == nil || f.Match(p) {
			resp.Plugins = append(resp.Plugins, p.wire())
		}
	}
	return resp, nil
}

// Field implements filters.Adaptor.
func (p Plugin) Field(path []string) (string, bool) {
	switch path[0] {
	case "type":
		return p.Type, p.Type != ""
	case "id":
		return p.ID, p.ID != ""
	case "platforms":
		return platform().OS + "/" + platform().Architecture, true
	case "capabilities":
		return strings.Join(p.Capabilities, ","), len(p.Capabilities) > 0
	}
	return "", false
}

func platform() *types.Platform {
	return &types.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
}

func (p Plugin) wire() *introspectionapi.Plugin {
	w := &introspectionapi.Plugin{Type: p.Type, ID: p.ID, Platforms: []*types.Platform{platform()}, Exports: p.Exports, Capabilities: p.Capabilities}
	if p.Err != nil {
		w.InitErr = statusOf(p.Err)
	}
	return w
}

// pluginRuntime is the type of the plugin that answers for runtimes.
const pluginRuntime = "io.containerd.runtime.v2"

// PluginInfo implements Introspection. Of the runtime plugin it asks the shim that the
// options name.
func (s *introspectionServer) PluginInfo(ctx context.Context, r *introspectionapi.PluginInfoRequest) (*introspectionapi.PluginInfoResponse, error) {
	for _, p := range s.self.Plugins {
		if p.Type != r.Type || p.ID != r.ID {
			continue
		}
		resp := &introspectionapi.PluginInfoResponse{Plugin: p.wire()}
		if p.Type != pluginRuntime || r.Options == nil {
			return resp, nil
		}
		var req types.RuntimeRequest
		if err := unmarshal(r.Options, &req); err != nil {
			return nil, err
		}
		info, err := s.self.Runtime.Info(ctx, req.RuntimePath, req.Options)
		if err != nil {
			return nil, err
		}
		resp.Extra, err = anypb.New(info)
		return resp, err
	}
	return nil, fmt.Errorf("plugin %s.%s: %w", r.Type, r.ID, errdefs.ErrNotFound)
}

type versionServer struct {
	versionapi.UnimplementedVersionServer
	version, revision string
}

// RegisterVersion adds the version service to a server.
func RegisterVersion(s *grpc.Server, version, revision string) {
	versionapi.RegisterVersionServer(s, versionServer{version: version, revision: revision})
}

// Version implements Version.
func (s versionServer) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: s.version, Revision: s.revision}, nil
}

// RegisterHealth adds gRPC's health service, which says that everything serves.
func RegisterHealth(s *grpc.Server) {
	h := health.NewServer()
	h.SetServingStatus("", healthapi.HealthCheckResponse_SERVING)
	healthapi.RegisterHealthServer(s, h)
}
