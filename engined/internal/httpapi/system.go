package httpapi

import (
	"net/http"
	"runtime"

	"strata/engined/internal/host"
)

// builderVersion is 1 for the classic builder and 2 for BuildKit's session protocol.
const builderVersion = "2"

// systemAPI serves ping, version, info and df.
type systemAPI struct {
	host       *host.Host
	containers containersAPI
	usage      usage
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
	v, err := a.host.Version(r.Context())
	if err != nil {
		return err
	}
	v.APIVersion, v.MinAPIVersion, v.Os, v.Arch, v.GoVersion = DefaultVersion, MinVersion, "linux", runtime.GOARCH, runtime.Version()
	return writeJSON(w, http.StatusOK, v)
}

func (a systemAPI) info(w http.ResponseWriter, r *request) error {
	info, err := a.host.Info(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, info)
}
