package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"strata/engined/internal/build"
	"strata/engined/internal/buildkit"
	"strata/engined/internal/containers"
	"strata/engined/internal/events"
	"strata/engined/internal/execs"
	"strata/engined/internal/host"
	"strata/engined/internal/images"
	"strata/engined/internal/networks"
	"strata/engined/internal/volumes"
	"strata/pkg/api"
	"strata/pkg/namespaces"
	"strata/pkg/version"
)

// Services are the rooms that the API opens onto.
type Services struct {
	Containers *containers.Service
	Execs      *execs.Service
	Images     *images.Service
	Networks   *networks.Manager
	Volumes    *volumes.Manager
	Events     *events.Log
	Host       *host.Host
	Stats      containers.StatsSource
	Below      lowerLayers
	Builder    *build.Service
	BuildKit   *buildkit.Service
	Doctor     func(ctx context.Context, repair bool) ([]api.Finding, error)
}

// drainTime is how long open requests may take when the server stops; streams that never
// end are cut off then.
const drainTime = 3 * time.Second

// New returns the handler of the whole API.
func New(s Services) http.Handler {
	ctrs := containersAPI{svc: s.Containers, execs: s.Execs, nets: s.Networks, images: s.Images}
	tables := [][]route{
		systemAPI{s.Host, ctrs, usage{s.Images, s.Volumes, s.Containers, s.BuildKit}}.routes(),
		ctrs.routes(),
		execAPI{s.Execs}.routes(),
		Images(s.Images).routes(),
		commitAPI{s.Containers, s.Images}.routes(),
		buildAPI{s.Builder, s.BuildKit}.routes(),
		eventsAPI{s.Events}.routes(),
		archiveAPI{s.Containers}.routes(),
		statsAPI{s.Stats}.routes(),
		explainAPI{s.Containers, s.Below, s.Doctor}.routes(),
		volumesAPI{s.Volumes}.routes(),
		networksAPI{s.Networks, s.Containers}.routes(),
		absentAPI{}.routes(),
	}
	header := http.Header{}
	header.Set("Api-Version", DefaultVersion)
	header.Set("Ostype", "linux")
	header.Set("Server", "Docker/"+version.Version+" (linux)")
	header.Set("Docker-Experimental", "false")
	return traced(newRouter(header, tables...))
}

// traced takes the trace id of a request into its context.
func traced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get(api.TraceHeader); id != "" {
			r = r.WithContext(namespaces.WithTrace(r.Context(), id))
		}
		next.ServeHTTP(w, r)
	})
}

// Serve answers requests on the listeners until ctx is done, and then lets open requests
// end for a moment.
func Serve(ctx context.Context, h http.Handler, listeners []net.Listener) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		wg.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if serr := srv.Shutdown(drain); serr != nil {
		serr = srv.Close()
		err = errors.Join(err, serr)
	}
	wg.Wait()
	return err
}
