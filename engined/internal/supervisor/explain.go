package supervisor

import (
	"context"

	"github.com/containerd/errdefs"

	explainv1 "strata/proto/strata/explain/v1"
	supervisorv1 "strata/proto/strata/supervisor/v1"

	"strata/pkg/api"
)

// Explain returns what the supervisor and the layers below it made for a container.
// ErrNotImplemented from a supervisor that is not ours.
func (c *Client) Explain(ctx context.Context, containerID string) ([]api.Step, []api.Object, error) {
	resp, err := supervisorv1.NewSupervisorClient(c.conn).Explain(c.scope(ctx), &supervisorv1.ExplainRequest{Id: containerID})
	if err != nil {
		return nil, nil, err
	}
	steps, objects := explanationFromWire(resp.GetExplanation())
	return steps, objects, nil
}

func explanationFromWire(e *explainv1.Explanation) ([]api.Step, []api.Object) {
	var steps []api.Step
	for _, s := range e.GetSteps() {
		steps = append(steps, api.Step{Layer: s.Layer, Name: s.Name, Start: s.Start.AsTime(), Duration: s.Duration.AsDuration()})
	}
	var objects []api.Object
	for _, o := range e.GetObjects() {
		objects = append(objects, api.Object{Kind: o.Kind, ID: o.Id, Detail: o.Detail, Layer: o.Layer})
	}
	return steps, objects
}

// Doctor returns the supervisor's findings; with repair it mends what is safe.
// ErrNotImplemented from a supervisor that is not ours.
func (c *Client) Doctor(ctx context.Context, repair bool) ([]api.Finding, error) {
	resp, err := supervisorv1.NewSupervisorClient(c.conn).Doctor(c.scope(ctx), &supervisorv1.DoctorRequest{Repair: repair})
	if err != nil {
		return nil, err
	}
	out := []api.Finding{}
	for _, f := range resp.Findings {
		out = append(out, api.Finding{Layer: "supervisord", Code: f.Code, Subject: f.Subject, Detail: f.Detail, Remedy: f.Remedy, Repaired: f.Repaired})
	}
	return out, nil
}

// Ours reports whether the supervisor is one of ours, which offers more than containerd's
// services: it follows restart policies at once, and explains itself.
func (c *Client) Ours(ctx context.Context) bool {
	_, err := supervisorv1.NewSupervisorClient(c.conn).Explain(c.scope(ctx), &supervisorv1.ExplainRequest{})
	return err == nil || !errdefs.IsNotImplemented(err) && !errdefs.IsUnavailable(err)
}
