package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/volume"

	"strata/engined/internal/filters"
	"strata/engined/internal/volumes"
)

// volumesAPI serves /volumes.
type volumesAPI struct {
	svc *volumes.Manager
}

func (a volumesAPI) routes() []route {
	return []route{
		{http.MethodGet, "/volumes", a.list},
		{http.MethodPost, "/volumes/create", a.create},
		{http.MethodPost, "/volumes/prune", a.prune},
		{http.MethodGet, "/volumes/{name}", a.inspect},
		{http.MethodDelete, "/volumes/{name}", a.remove},
	}
}

func toVolume(v volumes.Volume) volume.Volume {
	out := volume.Volume{
		Name: v.Name, Driver: v.Driver, Mountpoint: v.Mountpoint, Labels: v.Labels, Options: v.Options, Scope: "local",
		CreatedAt: v.Created.Format(time.RFC3339),
	}
	if out.Labels == nil && v.Anonymous {
		out.Labels = map[string]string{"com.docker.volume.anonymous": ""}
	}
	return out
}

func (a volumesAPI) list(w http.ResponseWriter, r *request) error {
	args, err := filters.Parse(r.Query("filters"), "dangling", "driver", "label", "label!", "name")
	if err != nil {
		return err
	}
	dangling, err := args.Bool("dangling", false)
	if err != nil {
		return err
	}
	out := volume.ListResponse{Volumes: []volume.Volume{}}
	for _, v := range a.svc.List() {
		unused := len(a.svc.Users(v.Name)) == 0
		if args.Has("dangling") && unused != dangling {
			continue
		}
		if args.Exact("driver", v.Driver) && args.Match("name", v.Name) && args.Labels(v.Labels) {
			out.Volumes = append(out.Volumes, toVolume(v))
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a volumesAPI) create(w http.ResponseWriter, r *request) error {
	var req volume.CreateRequest
	if err := r.Decode(&req); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	v, err := a.svc.Create(r.Context(), volumes.CreateRequest{Name: req.Name, Driver: req.Driver, Options: req.DriverOpts, Labels: req.Labels})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, toVolume(v))
}

func (a volumesAPI) inspect(w http.ResponseWriter, r *request) error {
	v, err := a.svc.Get(r.Var("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, toVolume(v))
}

func (a volumesAPI) remove(w http.ResponseWriter, r *request) error {
	if err := a.svc.Remove(r.Context(), r.Var("name"), r.Bool("force")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// prune removes unused volumes: since 1.42 only anonymous ones, unless "all" is asked for.
func (a volumesAPI) prune(w http.ResponseWriter, r *request) error {
	args, err := filters.Parse(r.Query("filters"), "label", "label!", "all")
	if err != nil {
		return err
	}
	all, err := args.Bool("all", !r.AtLeast("1.42"))
	if err != nil {
		return err
	}
	names, freed, err := a.pruneMatching(r.Context(), args, all)
	if err != nil {
		return err
	}
	if names == nil {
		names = []string{} // dockerd: never null
	}
	return writeJSON(w, http.StatusOK, volume.PruneReport{VolumesDeleted: names, SpaceReclaimed: freed})
}

func (a volumesAPI) pruneMatching(ctx context.Context, args filters.Args, all bool) ([]string, uint64, error) {
	return a.svc.Prune(ctx, func(v volumes.Volume) bool { return (all || v.Anonymous) && args.Labels(v.Labels) })
}
