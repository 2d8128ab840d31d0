package httpapi

import (
	"context"
	"net/http"
	"runtime"

	"github.com/moby/moby/api/types/system"

	"strata/engined/internal/containers"
)

// builderVersion is 1 for the classic builder and 2 for BuildKit's session protocol.
const builderVersion = "1"

// systemInfo tells about the engine and its host.
type systemInfo interface {
	Info(ctx context.Context) (*system.Info, error)
	Version(ctx context.Context) (*system.VersionResponse, error)
}

// usageSource gives the disk usage of what is no container, as the messages of
// /system/df; nil where there is nothing to tell.
type usageSource interface {
	ImageUsage(ctx context.Context) (items []any, layersSize int64, err error)
	VolumeUsage(ctx context.Context) (items []any, err error)
	BuildCacheUsage(ctx context.Context) (items []any, err error)
}

// systemAPI serves ping, version, info and df.
type systemAPI struct {
	sys        systemInfo
	usage      usageSource
	containers containersAPI
}

func (a systemAPI) routes() []route {
	return []route{
		{http.MethodGet, "/_ping", a.ping},
		{http.MethodHead, "/_ping", a.ping},
		{http.MethodGet, "/version", a.version},
		{http.MethodGet, "/info", a.info},
		{http.MethodGet, "/system/df", a.df},
	}
}

func (a systemAPI) ping(w http.ResponseWriter, r *request) error {
	h := w.Header()
	h.Set("Builder-Version", builderVersion)
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", "inactive")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := w.Write([]byte("OK"))
	return err
}

func (a systemAPI) version(w http.ResponseWriter, r *request) error {
	v, err := a.sys.Version(r.Context())
	if err != nil {
		return err
	}
	v.APIVersion, v.MinAPIVersion, v.Os, v.Arch, v.GoVersion = DefaultVersion, MinVersion, "linux", runtime.GOARCH, runtime.Version()
	return writeJSON(w, http.StatusOK, v)
}

func (a systemAPI) info(w http.ResponseWriter, r *request) error {
	info, err := a.sys.Info(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, info)
}

// diskUsage is the answer of /system/df before 1.52.
type diskUsage struct {
	LayersSize  int64
	Images      []any
	Containers  []summary
	Volumes     []any
	BuildCache  []any
	BuilderSize int64
}

func (a systemAPI) df(w http.ResponseWriter, r *request) error {
	ctx, types := r.Context(), r.URL.Query()["type"]
	want := func(kind string) bool {
		for _, t := range types {
			if t == kind {
				return true
			}
		}
		return len(types) == 0
	}
	for _, t := range types {
		switch t {
		case "container", "image", "volume", "build-cache":
		default:
			return invalid("unknown object type: %s", t)
		}
	}
	var out diskUsage
	var err error
	if want("container") {
		if out.Containers, err = a.containerUsage(r); err != nil {
			return err
		}
	}
	if want("image") {
		if out.Images, out.LayersSize, err = a.usage.ImageUsage(ctx); err != nil {
			return err
		}
	}
	if want("volume") {
		if out.Volumes, err = a.usage.VolumeUsage(ctx); err != nil {
			return err
		}
	}
	if want("build-cache") {
		if out.BuildCache, err = a.usage.BuildCacheUsage(ctx); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a systemAPI) containerUsage(r *request) ([]summary, error) {
	all, err := a.containers.svc.List(containers.ListRequest{All: true})
	if err != nil {
		return nil, err
	}
	out := []summary{}
	for _, c := range all {
		s := a.containers.summary(c, r)
		if rw, root, err := a.containers.svc.Sizes(r.Context(), c); err == nil { // else it is just being removed
			s.SizeRw, s.SizeRootFs = rw, root
		}
		out = append(out, s)
	}
	return out, nil
}
