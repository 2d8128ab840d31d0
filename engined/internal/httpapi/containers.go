package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/containers"
	"strata/engined/internal/filters"
	"strata/engined/internal/images"
	"strata/engined/internal/logs"
	"strata/engined/internal/networks"
	"strata/pkg/api"
	"strata/pkg/ctxlog"
)

// imageResolver finds the images that the "ancestor" filter names.
type imageResolver interface {
	Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (images.Image, error)
}

// containersAPI serves the life of containers.
type containersAPI struct {
	svc   *containers.Service
	execs interface {
		OfContainer(containerID string) []string
	}
	nets   sandboxes
	images imageResolver
}

func (a containersAPI) routes() []route {
	return []route{
		{http.MethodGet, "/containers/json", a.list},
		{http.MethodPost, "/containers/create", a.create},
		{http.MethodPost, "/containers/prune", a.prune},
		{http.MethodGet, "/containers/{name}/json", a.inspect},
		{http.MethodGet, "/containers/{name}/top", a.top},
		{http.MethodGet, "/containers/{name}/logs", a.readLogs},
		{http.MethodPost, "/containers/{name}/start", a.start},
		{http.MethodPost, "/containers/{name}/stop", a.stop},
		{http.MethodPost, "/containers/{name}/restart", a.restart},
		{http.MethodPost, "/containers/{name}/kill", a.kill},
		{http.MethodPost, "/containers/{name}/pause", a.pause},
		{http.MethodPost, "/containers/{name}/unpause", a.unpause},
		{http.MethodPost, "/containers/{name}/rename", a.rename},
		{http.MethodPost, "/containers/{name}/update", a.update},
		{http.MethodPost, "/containers/{name}/resize", a.resize},
		{http.MethodPost, "/containers/{name}/wait", a.wait},
		{http.MethodPost, "/containers/{name}/attach", a.attach},
		{http.MethodGet, "/containers/{name}/attach/ws", a.attachWebsocket},
		{http.MethodDelete, "/containers/{name}", a.remove},
	}
}

func (a containersAPI) list(w http.ResponseWriter, r *request) error {
	f, err := filters.Parse(r.Query("filters"), containers.ListFilters...)
	if err != nil {
		return err
	}
	limit := 0
	if v := r.Query("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil {
			return invalid("invalid limit %q", v)
		}
	}
	list := containers.ListRequest{All: r.Bool("all"), Limit: limit, Filters: f}
	list.ImageIDs = func(ref string) []string {
		img, err := a.images.Resolve(r.Context(), ref, nil)
		if err != nil {
			return nil // no image, no descendants
		}
		return []string{img.ID.String()}
	}
	found, err := a.svc.List(list)
	if err != nil {
		return err
	}
	out := make([]summary, 0, len(found))
	for _, c := range found {
		s := a.summary(c, r)
		if r.Bool("size") {
			if s.SizeRw, s.SizeRootFs, err = a.svc.Sizes(r.Context(), c); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		out = append(out, s)
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a containersAPI) create(w http.ResponseWriter, r *request) error {
	req, err := decodeCreate(r)
	if err != nil {
		return err
	}
	id, warnings, err := a.svc.Create(r.Context(), req)
	if err != nil {
		return err
	}
	if warnings == nil {
		warnings = []string{}
	}
	return writeJSON(w, http.StatusCreated, container.CreateResponse{ID: id, Warnings: warnings})
}

func (a containersAPI) inspect(w http.ResponseWriter, r *request) error {
	c, err := a.svc.Get(r.Var("name"))
	if err != nil {
		return err
	}
	out := a.inspection(c, r)
	if r.Bool("size") {
		rw, root, err := a.svc.Sizes(r.Context(), c)
		if err != nil {
			return err
		}
		out.SizeRw, out.SizeRootFs = &rw, &root
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a containersAPI) start(w http.ResponseWriter, r *request) error {
	// Old clients send "{}" or "null" here; a configuration is refused since 1.24.
	if r.ContentLength > 7 {
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if _, err := detachKeys(r.Query("detachKeys")); err != nil {
		return err
	}
	changed, err := a.svc.Start(r.Context(), r.Var("name"))
	switch {
	case err != nil:
		return startError(err)
	case !changed:
		w.WriteHeader(http.StatusNotModified)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

// startError gives a start that failed for the user's command dockerd's status.
func startError(err error) error {
	if statusOf(err) == http.StatusInternalServerError && containers.InvalidCommand(err) {
		return &statusError{http.StatusBadRequest, message(err)}
	}
	return err
}

func stopRequest(r *request) (containers.StopRequest, error) {
	req := containers.StopRequest{Signal: r.Query("signal")}
	if v := r.Query("t"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return req, invalid("invalid timeout %q", v)
		}
		req.Timeout = &n
	}
	return req, nil
}

func (a containersAPI) stop(w http.ResponseWriter, r *request) error {
	req, err := stopRequest(r)
	if err != nil {
		return err
	}
	changed, err := a.svc.Stop(r.Context(), r.Var("name"), req)
	switch {
	case err != nil:
		return err
	case !changed:
		w.WriteHeader(http.StatusNotModified)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
	return nil
}

func (a containersAPI) restart(w http.ResponseWriter, r *request) error {
	req, err := stopRequest(r)
	if err != nil {
		return err
	}
	return noContent(w, a.svc.Restart(r.Context(), r.Var("name"), req))
}

func (a containersAPI) kill(w http.ResponseWriter, r *request) error {
	return noContent(w, a.svc.Kill(r.Context(), r.Var("name"), r.Query("signal")))
}

func (a containersAPI) pause(w http.ResponseWriter, r *request) error {
	return noContent(w, a.svc.Pause(r.Context(), r.Var("name")))
}

func (a containersAPI) unpause(w http.ResponseWriter, r *request) error {
	return noContent(w, a.svc.Unpause(r.Context(), r.Var("name")))
}

func (a containersAPI) rename(w http.ResponseWriter, r *request) error {
	return noContent(w, a.svc.Rename(r.Context(), r.Var("name"), r.Query("name")))
}

func (a containersAPI) remove(w http.ResponseWriter, r *request) error {
	req := containers.RemoveRequest{Force: r.Bool("force"), Volumes: r.Bool("v"), Link: r.Bool("link")}
	return noContent(w, a.svc.Remove(r.Context(), r.Var("name"), req))
}

func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

func (a containersAPI) update(w http.ResponseWriter, r *request) error {
	var u struct {
		container.UpdateConfig
		StrataPublish *api.PublishChange // api.UpdatePublish
	}
	if err := r.Decode(&u); err != nil {
		return emptyBody(err)
	}
	var warnings []string
	if u.StrataPublish == nil || !reflect.DeepEqual(u.UpdateConfig, container.UpdateConfig{}) {
		var err error
		if warnings, err = a.svc.Update(r.Context(), r.Var("name"), u.UpdateConfig); err != nil {
			return err
		}
	}
	if u.StrataPublish != nil {
		if err := a.updatePorts(r, *u.StrataPublish); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, container.UpdateResponse{Warnings: warnings})
}

func (a containersAPI) updatePorts(r *request, change api.PublishChange) error {
	var remove []containers.PortMatch
	var add []networks.PortMapping
	for _, text := range change.Remove {
		m, err := containers.ParsePortMatch(text)
		if err != nil {
			return err
		}
		remove = append(remove, m)
	}
	for _, p := range change.Add {
		m, err := containers.PortMapping(p)
		if err != nil {
			return err
		}
		add = append(add, m)
	}
	return a.svc.UpdatePorts(r.Context(), r.Var("name"), remove, add)
}

func (a containersAPI) resize(w http.ResponseWriter, r *request) error {
	height, width, err := windowSize(r)
	if err != nil {
		return err
	}
	if err := a.svc.Resize(r.Context(), r.Var("name"), width, height); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func windowSize(r *request) (height, width int, err error) {
	if height, err = strconv.Atoi(r.Query("h")); err != nil || height < 0 {
		return 0, 0, invalid("invalid resize height %q", r.Query("h"))
	}
	if width, err = strconv.Atoi(r.Query("w")); err != nil || width < 0 {
		return 0, 0, invalid("invalid resize width %q", r.Query("w"))
	}
	return height, width, nil
}

func (a containersAPI) top(w http.ResponseWriter, r *request) error {
	titles, processes, err := a.svc.Top(r.Context(), r.Var("name"), r.Query("ps_args"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, container.TopResponse{Titles: titles, Processes: processes})
}

// wait sends the headers at once: clients start the container when they have them.
func (a containersAPI) wait(w http.ResponseWriter, r *request) error {
	result, err := a.svc.Wait(r.Var("name"), container.WaitCondition(r.Query("condition")))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	exit, err := result(r.Context())
	if err != nil {
		return err // the client is gone, or the engine stops
	}
	return json.NewEncoder(w).Encode(container.WaitResponse{StatusCode: int64(exit.Code)})
}

var pruneFilters = []string{"until", "label", "label!"}

func (a containersAPI) prune(w http.ResponseWriter, r *request) error {
	f, err := filters.Parse(r.Query("filters"), pruneFilters...)
	if err != nil {
		return err
	}
	until, err := untilFilter(f)
	if err != nil {
		return err
	}
	pruned, err := a.svc.Prune(r.Context(), func(c *containers.Container) bool {
		d := c.Definition()
		return f.Labels(d.Config.Labels) && (until.IsZero() || d.Created.Before(until))
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, container.PruneReport{ContainersDeleted: pruned.IDs, SpaceReclaimed: uint64(pruned.Reclaimed)})
}

// attach hijacks the connection and joins it with the container's streams.
func (a containersAPI) attach(w http.ResponseWriter, r *request) error {
	keys, err := detachKeys(r.Query("detachKeys"))
	if err != nil {
		return err
	}
	req := containers.AttachRequest{DetachKeys: keys}
	if r.Bool("stream") {
		req.Stdin, req.Stdout, req.Stderr = r.Bool("stdin"), r.Bool("stdout"), r.Bool("stderr")
	}
	at, err := a.svc.Attach(r.Context(), r.Var("name"), req)
	if err != nil {
		return err
	}
	defer at.Close()
	tty := at.Container.Definition().Config.Tty
	conn, err := hijack(w, r, tty)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // everything was written
	if r.Bool("logs") {
		if err := a.copyLogs(r.Context(), conn, at.Container, logRequest{Options: logs.Options{Stdout: r.Bool("stdout"), Stderr: r.Bool("stderr"), Tail: logs.All}, framed: !tty}); err != nil {
			ctxlog.From(r.Context()).Debug("logs before an attachment broke off", ctxlog.Error, err)
		}
	}
	if !r.Bool("stream") {
		return nil
	}
	at.Attached()
	process, err := at.Conn(r.Context())
	if err != nil || process == nil {
		return err
	}
	return containers.Splice(conn, process)
}

// decodeCreate reads the body of create, whose Cmd and Entrypoint may be single strings.
func decodeCreate(r *request) (containers.CreateRequest, error) {
	var body createBody
	if err := r.Decode(&body); err != nil {
		if errors.Is(err, io.EOF) {
			return containers.CreateRequest{}, invalid("config cannot be empty in order to create a container")
		}
		return containers.CreateRequest{}, err
	}
	if body.Config == nil {
		return containers.CreateRequest{}, invalid("config cannot be empty in order to create a container")
	}
	return body.request(r)
}

func emptyBody(err error) error {
	if errors.Is(err, io.EOF) {
		return invalid("invalid JSON: got EOF while reading request body")
	}
	return err
}
