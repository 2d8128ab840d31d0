package buildkit

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/engined/internal/build"
	"strata/engined/internal/build/dockerfile"
	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
)

// control serves the control API.
type control struct {
	controlpb.UnimplementedControlServer
	s *Service
}

// Solve implements controlpb.ControlServer.
func (c control) Solve(ctx context.Context, req *controlpb.SolveRequest) (*controlpb.SolveResponse, error) {
	return c.s.solve(ctx, req)
}

// Status implements controlpb.ControlServer.
func (c control) Status(req *controlpb.StatusRequest, stream controlpb.Control_StatusServer) error {
	if j := c.s.known(req.Ref); j != nil {
		return j.story.follow(stream.Context(), stream.Send)
	}
	if events, ok := c.s.history.events(req.Ref); ok {
		for _, e := range events {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		return nil
	}
	j, err := c.s.job(stream.Context(), req.Ref)
	if err != nil {
		return err
	}
	return j.story.follow(stream.Context(), stream.Send)
}

// Session implements controlpb.ControlServer.
func (c control) Session(stream controlpb.Control_SessionServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context()) // none is no metadata
	h := http.Header{}
	for k, list := range md {
		for _, v := range list {
			h.Add(k, v)
		}
	}
	return c.s.ServeSession(stream.Context(), newStreamConn(stream), h)
}

// Info implements controlpb.ControlServer.
func (c control) Info(context.Context, *controlpb.InfoRequest) (*controlpb.InfoResponse, error) {
	return &controlpb.InfoResponse{BuildkitVersion: c.s.version()}, nil
}

// protocolVersion is the version of BuildKit whose protocol is spoken. Clients compare it.
const protocolVersion = "v0.32.2"

func (s *Service) version() *controlpb.BuildkitVersion {
	return &controlpb.BuildkitVersion{Package: "strata", Version: protocolVersion + "-strata", Revision: s.cfg.Version, DockerfileVersion: dockerfile.Version}
}

// Labels of the worker. That there is a snapshotter tells buildx that images are kept as
// they are built: with indexes, attestations and exporters of their own.
const (
	labelExecutor    = "org.mobyproject.buildkit.worker.executor"
	labelHostname    = "org.mobyproject.buildkit.worker.hostname"
	labelSnapshotter = "org.mobyproject.buildkit.worker.snapshotter"
	labelHostGateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
)

func (s *Service) workers(ctx context.Context) []*controlpb.WorkerRecord {
	w := &controlpb.WorkerRecord{ID: s.cfg.ID, BuildkitVersion: s.version(), Labels: map[string]string{
		labelExecutor: "containerd", labelHostname: s.cfg.Hostname, labelSnapshotter: s.cfg.Snapshotter,
	}}
	if ip := s.cfg.HostGateway(); ip != "" {
		w.Labels[labelHostGateway] = ip
	}
	for _, p := range s.builds.Policies() {
		policy := &controlpb.GCPolicy{All: p.All, KeepDuration: int64(p.UnusedFor), ReservedSpace: p.Keep, MaxUsedSpace: p.MaxUsed, MinFreeSpace: p.MinFree}
		for _, t := range p.Types {
			policy.Filters = append(policy.Filters, "type=="+t)
		}
		w.GCPolicy = append(w.GCPolicy, policy)
	}
	for _, p := range s.builds.Platforms(ctx) {
		w.Platforms = append(w.Platforms, &controlpb.Platform{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures})
	}
	return []*controlpb.WorkerRecord{w}
}

// ListWorkers implements controlpb.ControlServer.
func (c control) ListWorkers(ctx context.Context, _ *controlpb.ListWorkersRequest) (*controlpb.ListWorkersResponse, error) {
	return &controlpb.ListWorkersResponse{Record: c.s.workers(ctx)}, nil
}

// DiskUsage implements controlpb.ControlServer.
func (c control) DiskUsage(ctx context.Context, req *controlpb.DiskUsageRequest) (*controlpb.DiskUsageResponse, error) {
	f, err := parseFilters(req.Filter)
	if err != nil {
		return nil, err
	}
	list, err := c.s.Usage(ctx)
	if err != nil {
		return nil, err
	}
	out := &controlpb.DiskUsageResponse{}
	for _, u := range list {
		if wanted(build.PruneRequest{IDs: f["id"], Types: f["type"]}, u) {
			out.Record = append(out.Record, usageRecord(u))
		}
	}
	return out, nil
}

func usageRecord(u build.Usage) *controlpb.UsageRecord {
	return &controlpb.UsageRecord{
		ID: u.ID, Mutable: u.Type != "regular", InUse: u.InUse, Size: u.Size, CreatedAt: timestamppb.New(u.CreatedAt), LastUsedAt: timestamppb.New(u.LastUsedAt),
		UsageCount: int64(u.UsageCount), Description: u.Description, RecordType: u.Type, Shared: u.Shared, Parents: u.Parents,
	}
}

// Prune implements controlpb.ControlServer.
func (c control) Prune(req *controlpb.PruneRequest, stream controlpb.Control_PruneServer) error {
	f, err := parseFilters(req.Filter)
	if err != nil {
		return err
	}
	p := build.PruneRequest{All: req.All, Keep: req.ReservedSpace, MaxUsed: req.MaxUsedSpace, MinFree: req.MinFreeSpace, IDs: f["id"], Types: f["type"]}
	if req.KeepDuration > 0 {
		p.Until = time.Now().Add(-time.Duration(req.KeepDuration))
	}
	gone, err := c.s.Prune(stream.Context(), p)
	if err != nil {
		return err
	}
	for _, u := range gone {
		if err := stream.Send(usageRecord(u)); err != nil {
			return err
		}
	}
	return nil
}

// filter is what of the cache is meant: by field, the values of which one fits.
type filter map[string][]string

// parseFilters reads filters as containerd has them, of which clients use "field==value" and
// "field~=value", with "type" and "id", and lists of them.
func parseFilters(list []string) (filter, error) {
	out := filter{}
	for _, text := range list {
		for part := range strings.SplitSeq(text, ",") {
			if part == "" {
				continue
			}
			field, value, ok := strings.Cut(part, "==")
			if !ok {
				field, value, ok = strings.Cut(part, "~=")
			}
			if !ok {
				return nil, fmt.Errorf("filter %q: %w", part, errdefs.ErrInvalidArgument)
			}
			if plain, err := strconv.Unquote(value); err == nil {
				value = plain
			}
			switch field {
			case "id", "type":
				out[field] = append(out[field], value)
			default:
				return nil, fmt.Errorf("filter by %s: %w", field, errdefs.ErrNotImplemented)
			}
		}
	}
	return out, nil
}

// ListenBuildHistory implements controlpb.ControlServer.
func (c control) ListenBuildHistory(req *controlpb.BuildHistoryRequest, stream controlpb.Control_ListenBuildHistoryServer) error {
	// What the client says of ages is by this clock.
	if err := stream.SendHeader(metadata.Pairs(buildkit.KeyTimestamp, time.Now().Format(time.RFC3339Nano))); err != nil {
		return err
	}
	return c.s.history.listen(stream.Context(), req, c.s.running(), stream.Send)
}

// running are the records of the builds that run.
func (s *Service) running() []*controlpb.BuildHistoryRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*controlpb.BuildHistoryRecord
	for _, j := range s.jobs {
		if !j.ended {
			out = append(out, j.record(j.began, nil, nil, nil))
		}
	}
	return out
}

// UpdateBuildHistory implements controlpb.ControlServer.
func (c control) UpdateBuildHistory(_ context.Context, req *controlpb.UpdateBuildHistoryRequest) (*controlpb.UpdateBuildHistoryResponse, error) {
	return &controlpb.UpdateBuildHistoryResponse{}, c.s.history.update(req)
}
