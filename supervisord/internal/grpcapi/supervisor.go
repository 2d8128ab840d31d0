package grpcapi

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/namespaces"
	explainv1 "strata/proto/strata/explain/v1"
	supervisorv1 "strata/proto/strata/supervisor/v1"
	"strata/supervisord/internal/tasks"
)

// Check is one part of Doctor: it returns what is wrong and, with repair, mends what is
// safe to mend.
type Check func(ctx context.Context, repair bool) ([]tasks.Finding, error)

// ContainerExplainer lists what the storage knows of a container: records, snapshots.
type ContainerExplainer func(ctx context.Context, containerID string) ([]tasks.Object, error)

type supervisorServer struct {
	supervisorv1.UnimplementedSupervisorServer
	tasks   *tasks.Service
	explain ContainerExplainer
	checks  []Check
}

// RegisterSupervisor adds our own service to a server.
func RegisterSupervisor(s *grpc.Server, service *tasks.Service, explain ContainerExplainer, checks ...Check) {
	supervisorv1.RegisterSupervisorServer(s, &supervisorServer{tasks: service, explain: explain, checks: append([]Check{service.Doctor}, checks...)})
}

// Explain implements Supervisor: the container's own objects, and those of its task if
// it has one.
func (s *supervisorServer) Explain(ctx context.Context, r *supervisorv1.ExplainRequest) (*supervisorv1.ExplainResponse, error) {
	objects, err := s.explain(ctx, r.Id)
	if err != nil {
		return nil, err
	}
	e, err := s.tasks.Explain(ctx, r.Id)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	out := &explainv1.Explanation{}
	for _, st := range e.Steps {
		out.Steps = append(out.Steps, &explainv1.Step{Layer: st.Layer, Name: st.Name, Start: timestamppb.New(st.Start), Duration: durationpb.New(st.Duration)})
	}
	for _, o := range append(objects, e.Objects...) {
		out.Objects = append(out.Objects, &explainv1.Object{Kind: o.Kind, Id: o.ID, Detail: o.Detail, Layer: o.Layer})
	}
	return &supervisorv1.ExplainResponse{Explanation: out}, nil
}

// Doctor implements Supervisor. A check that fails is itself a finding.
func (s *supervisorServer) Doctor(ctx context.Context, r *supervisorv1.DoctorRequest) (*supervisorv1.DoctorResponse, error) {
	resp := &supervisorv1.DoctorResponse{}
	for _, check := range s.checks {
		findings, err := check(ctx, r.Repair)
		for _, f := range findings {
			resp.Findings = append(resp.Findings, &supervisorv1.Finding{Code: f.Code, Subject: f.Subject, Detail: f.Detail, Remedy: f.Remedy, Repaired: f.Repaired})
		}
		if err != nil {
			resp.Findings = append(resp.Findings, &supervisorv1.Finding{Code: "check-failed", Subject: "supervisord", Detail: err.Error(), Remedy: "see the daemon's log"})
		}
	}
	return resp, nil
}

// WatchStats implements Supervisor.
func (s *supervisorServer) WatchStats(r *supervisorv1.WatchStatsRequest, stream supervisorv1.Supervisor_WatchStatsServer) error {
	ns, err := namespaces.Required(stream.Context())
	if err != nil {
		return err
	}
	return s.tasks.WatchStats(stream.Context(), ns, r.Ids, r.Interval.AsDuration(), func(m tasks.Metric) error {
		return stream.Send(&supervisorv1.WatchStatsResponse{Id: m.ID, Timestamp: timestamppb.New(m.At), Metrics: m.Data})
	})
}

// statusOf is an error as a message.
func statusOf(err error) *rpcstatus.Status { return status.Convert(errgrpc.ToGRPC(err)).Proto() }
