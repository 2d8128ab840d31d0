package httpapi

import (
	"context"
	"net/http"

	"github.com/containerd/errdefs"

	"strata/engined/internal/containers"
	"strata/pkg/api"
)

// lowerLayers answers for what the supervisor and the layers below it made.
type lowerLayers interface {
	Explain(ctx context.Context, containerID string) ([]api.Step, []api.Object, error)
	Doctor(ctx context.Context, repair bool) ([]api.Finding, error)
}

// explainAPI serves the routes that dockerd lacks.
type explainAPI struct {
	svc   *containers.Service
	below lowerLayers
	// own are the engine's findings.
	own func(ctx context.Context, repair bool) ([]api.Finding, error)
}

func (a explainAPI) routes() []route {
	return []route{
		{http.MethodGet, api.ExplainRoute, a.explain},
		{http.MethodGet, api.DoctorRoute, a.doctor},
		{http.MethodPost, api.DoctorRoute, a.doctor},
	}
}

func (a explainAPI) explain(w http.ResponseWriter, r *request) error {
	c, err := a.svc.Get(r.Var("id"))
	if err != nil {
		return err
	}
	out := api.Explanation{ID: c.ID, Name: c.Definition().Name}
	out.Steps, out.Objects = a.svc.Explain(c)
	steps, objects, err := a.below.Explain(r.Context(), c.ID)
	if err != nil && !errdefs.IsNotImplemented(err) && !errdefs.IsNotFound(err) {
		return err
	}
	out.Steps, out.Objects = append(out.Steps, steps...), append(out.Objects, objects...)
	return writeJSON(w, http.StatusOK, out)
}

func (a explainAPI) doctor(w http.ResponseWriter, r *request) error {
	repair := r.Method == http.MethodPost
	findings, err := a.own(r.Context(), repair)
	if err != nil {
		return err
	}
	below, err := a.below.Doctor(r.Context(), repair)
	if err != nil && !errdefs.IsNotImplemented(err) {
		return err
	}
	out := append(append([]api.Finding{}, findings...), below...)
	return writeJSON(w, http.StatusOK, out)
}
