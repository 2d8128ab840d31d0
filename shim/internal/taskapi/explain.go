package taskapi

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	explainv1 "strata/proto/strata/explain/v1"
	shimv1 "strata/proto/strata/shim/v1"
	"strata/shim/internal/process"
)

// The layers of an explanation that this process speaks for.
const (
	layerShim    = "shim"
	layerRuntime = "ocirun"
)

func (s *Service) explain(ctx context.Context, r *shimv1.ExplainRequest) (*shimv1.ExplainResponse, error) {
	ex, err := s.Tasks.Explain(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	wire := &explainv1.Explanation{
		Steps: append(stepsToWire(layerShim, ex.Steps), stepsToWire(layerRuntime, ex.RuntimeSteps)...),
	}
	for _, o := range ex.Objects {
		layer := layerShim
		if o.Runtime {
			layer = layerRuntime
		}
		wire.Objects = append(wire.Objects, &explainv1.Object{Kind: o.Kind, Id: o.ID, Detail: o.Detail, Layer: layer})
	}
	return &shimv1.ExplainResponse{Explanation: wire}, nil
}

func stepsToWire(layer string, steps []process.Step) []*explainv1.Step {
	wire := make([]*explainv1.Step, 0, len(steps))
	for _, s := range steps {
		wire = append(wire, &explainv1.Step{
			Layer: layer, Name: s.Name, Start: timestamppb.New(s.Start), Duration: durationpb.New(s.Duration),
		})
	}
	return wire
}
