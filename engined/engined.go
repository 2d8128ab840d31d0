package engined

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"strata/engined/internal/build"
	"strata/engined/internal/buildkit"
	"strata/engined/internal/containers"
	"strata/engined/internal/events"
	"strata/engined/internal/execs"
	"strata/engined/internal/health"
	"strata/engined/internal/host"
	"strata/engined/internal/httpapi"
	"strata/engined/internal/images"
	"strata/engined/internal/networks"
	"strata/engined/internal/spec"
	"strata/engined/internal/store"
	"strata/engined/internal/supervisor"
	"strata/engined/internal/volumes"
	"strata/pkg/ctxlog"
	"strata/pkg/identifiers"
	"strata/pkg/metadb"
	"strata/pkg/version"
)

// Daemon is how the process around Run talks to it while it runs.
type Daemon struct {
	Level *slog.LevelVar // of the log; a reload changes it
	// Reload takes new configurations; only what dockerd reloads is taken from them.
	Reload <-chan Config
}

// Run serves until ctx is done, then drains. It returns nil after an orderly stop.
func Run(ctx context.Context, cfg Config, d Daemon) error {
	release, err := claim(cfg)
	if err != nil {
		return err
	}
	defer release()
	db, err := metadb.Open(filepath.Join(cfg.DataRoot, "engine.db"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // every transaction is durable by itself
	st, err := store.Open(db)
	if err != nil {
		return err
	}
	id, err := st.EngineID(identifiers.New())
	if err != nil {
		return err
	}
	listeners, err := listen(ctx, cfg)
	if err != nil {
		return err
	}
	sup, err := supervisor.Dial(cfg.Supervisor, cfg.Namespace)
	if err != nil {
		return err
	}
	defer func() { _ = sup.Close() }() // nothing is in flight any more
	evts := events.NewLog()

	netCfg, err := networkConfig(cfg, evts)
	if err != nil {
		return err
	}
	nets, err := networks.New(ctx, db, netCfg)
	if err != nil {
		return fmt.Errorf("networks: %w", err)
	}
	vols, err := volumes.New(db, cfg.DataRoot, evts)
	if err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	var ctrs *containers.Service
	imgs := images.New(imageConfig(cfg), sup, evts, images.Hooks{Users: func(context.Context) []images.Use { return imageUses(ctrs) }, Embedded: embedded})
	ctrCfg, err := containerConfig(cfg, imgs.Snapshotter())
	if err != nil {
		return err
	}
	if ctrs, err = containers.New(ctx, containers.Deps{Store: st, Tasks: sup, Records: sup, Images: imgs, Networks: nets, Volumes: vols, Events: evts}, ctrCfg); err != nil {
		return err
	}
	if err := sweepVolumes(ctx, vols, ctrs); err != nil {
		return err
	}
	if err := spec.LoadDefaultAppArmor(); err != nil {
		ctxlog.From(ctx).Warn("containers are not confined by AppArmor", ctxlog.Error, err)
	}
	exs := execs.New(ctrs, sup, evts)
	probes := health.New(exs, evts)
	ctrs.Health = probes
	about := host.New(hostConfig(cfg, id, ctrCfg), sup, ctrs, evts)
	about.Images = func(ctx context.Context) int { return imageCount(ctx, imgs) }
	buildCfg, err := buildConfig(cfg, ctrCfg)
	if err != nil {
		return err
	}
	builds, err := build.New(buildCfg, sup, imgs, nets)
	if err != nil {
		return err
	}
	defer func() { _ = builds.Close() }() // every transaction is durable by itself
	kit, err := buildkit.New(buildkitConfig(cfg, id, imgs, nets), builds)
	if err != nil {
		return err
	}
	defer func() { _ = kit.Close() }() // what it loses is history
	handler := httpapi.New(httpapi.Services{
		Containers: ctrs, Execs: exs, Networks: nets, Images: imgs, Volumes: vols, Events: evts, Host: about,
		Stats: containers.StatsSource{Service: ctrs, Sampler: sup}, Below: sup, Builder: builds, BuildKit: kit, Doctor: doctor{ctrs, nets, sup}.find,
	})

	g, gctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	g.Go(func() error { return st.Run(gctx) })
	g.Go(func() error { return afterReady(gctx, ready, builds.Run) })
	g.Go(func() error { return kit.Run(gctx) })
	g.Go(func() error { return nets.Run(gctx) })
	g.Go(func() error { return probes.Run(gctx) })
	g.Go(func() error { return follow(gctx, sup, ctrs, exs, ready) })
	g.Go(func() error { return reload(gctx, d, about, evts) })
	g.Go(func() error {
		select {
		case <-ready:
		case <-gctx.Done():
			return nil
		}
		notify(gctx, daemon.SdNotifyReady)
		ctxlog.From(gctx).Info("engine is ready", "hosts", cfg.Hosts, "version", version.Version)
		return httpapi.Serve(gctx, handler, listeners)
	})
	g.Go(func() error { return serveMetrics(gctx, cfg.MetricsAddr, ctrs) })
	g.Go(func() error {
		<-gctx.Done()
		notify(gctx, daemon.SdNotifyStopping)
		ctrs.Shutdown(context.WithoutCancel(gctx))
		exs.Wait()
		return nil
	})
	return g.Wait()
}

// retryDelay is the pause between attempts to reach the supervisor.
const retryDelay = 100 * time.Millisecond

// follow keeps the engine's view of tasks true: it waits for the supervisor, reconciles,
// follows its events, and begins again when the stream breaks.
func follow(ctx context.Context, sup *supervisor.Client, ctrs *containers.Service, exs *execs.Service, ready chan<- struct{}) error {
	first, said := true, false
	for ctx.Err() == nil {
		err := sup.WatchTasks(ctx, func() error {
			said = false
			ctrs.Restarts(sup.Ours(ctx))
			if err := ctrs.Reconcile(ctx, first); err != nil {
				return err
			}
			dropStaleLeases(ctx, sup)
			if first {
				first = false
				close(ready)
			}
			return nil
		}, func(e supervisor.TaskEvent) {
			if e.ExecID != "" {
				exs.OnTaskEvent(e)
				return
			}
			ctrs.OnTaskEvent(e)
			if e.Kind == supervisor.TaskEventExit {
				exs.ContainerEnded(e.ContainerID)
			}
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // an orderly end
		}
		if !said {
			said = true
			ctxlog.From(ctx).Warn("supervisor is not there; waiting for it", ctxlog.Address, sup.Address(), ctxlog.Error, err)
			notify(ctx, "STATUS=waiting for the supervisor at "+sup.Address())
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
	return nil
}

// dropStaleLeases ends the leases that the death of an engine, or of the supervisor, has left:
// they would keep half-made images for a day.
func dropStaleLeases(ctx context.Context, sup *supervisor.Client) {
	stale, err := sup.StaleLeases(ctx)
	for _, id := range stale {
		err = errors.Join(err, sup.DropLease(ctx, id))
	}
	if err != nil {
		ctxlog.From(ctx).Warn("leases of an earlier engine stay until they expire", ctxlog.Error, err)
	}
}

// reload applies what a running engine can change.
func reload(ctx context.Context, d Daemon, about *host.Host, evts *events.Log) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case cfg := <-d.Reload:
			if level, err := cfg.Level(); err == nil && d.Level != nil {
				d.Level.Set(level)
			}
			about.Reload(cfg.Labels, cfg.Debug, cfg.InsecureRegistries, cfg.RegistryMirrors)
			evts.Publish(events.Event{Type: "daemon", Action: "reload", ActorID: about.ID(), Attributes: map[string]string{"name": about.Name(), "debug": fmt.Sprint(cfg.Debug), "labels": fmt.Sprint(cfg.Labels)}})
			ctxlog.From(ctx).Info("configuration was reloaded")
		}
	}
}

// notify tells systemd, if it asked to be told.
func notify(ctx context.Context, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		ctxlog.From(ctx).Debug("systemd was not notified", ctxlog.Error, err)
	}
}

// claim makes the directories and the pidfile, and refuses if another daemon lives there.
func claim(cfg Config) (release func(), err error) {
	for _, dir := range []string{cfg.DataRoot, cfg.ExecRoot} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	if cfg.Pidfile == "" {
		return func() {}, nil
	}
	if data, err := os.ReadFile(cfg.Pidfile); err == nil {
		if pid := string(data); pid != "" && alive(pid) {
			return nil, fmt.Errorf("process with PID %s is still running (pidfile %s): %w", pid, cfg.Pidfile, errdefs.ErrUnavailable)
		}
	}
	if err := os.WriteFile(cfg.Pidfile, fmt.Append(nil, os.Getpid()), 0o644); err != nil { //nolint:gosec // world readable by custom
		return nil, fmt.Errorf("write pidfile: %w", err)
	}
	return func() { _ = os.Remove(cfg.Pidfile) }, nil // a stale one is recognised
}

func alive(pid string) bool {
	_, err := os.Stat(filepath.Join("/proc", pid))
	return !errors.Is(err, os.ErrNotExist)
}
