package supervisord

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"strata/pkg/atomicfile"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/linux/mount"
	"strata/pkg/registry"
	"strata/pkg/rpc"
	"strata/supervisord/internal/events"
	"strata/supervisord/internal/grpcapi"
	"strata/supervisord/internal/restart"
	"strata/supervisord/internal/shims"
	"strata/supervisord/internal/snapshots"
	"strata/supervisord/internal/storage"
	"strata/supervisord/internal/tasks"
	"strata/supervisord/internal/transfer"
)

// Config is what the flags and the configuration file say. Every path must be given.
type Config struct {
	Address        string            // unix socket for clients; shims use ADDRESS.ttrpc
	Root           string            // what survives a reboot
	State          string            // what does not
	HostDir        string            // directories of registry host files, separated by colons
	DefaultRuntime string            // runtime of containers that name none
	Runtimes       map[string]string // runtime name → another name or an absolute path
	OCIRuntime     string            // what our shim drives; empty: ocirun beside the executable
	RuntimeRoot    string            // where the OCI runtime keeps its state; empty: its default
	MetricsAddress string            // host:port for /metrics; empty: none
	Version        string
	Debug          bool
	// Ready is called once clients are served; it may be nil.
	Ready func()
}

// defaultSnapshotter serves whoever names none.
const defaultSnapshotter = "overlayfs"

// Run serves until ctx is done and returns nil after an orderly stop. Tasks run on.
// Errors: ErrUnavailable if another daemon uses the root or listens on the address.
func Run(ctx context.Context, cfg Config) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	if err := makeDirs(cfg); err != nil {
		return err
	}
	unlock, err := lockState(cfg.State)
	if err != nil {
		return err
	}
	defer unlock()
	broker := &events.Broker{}
	stores, err := storage.Open(ctx, cfg.Root, broker)
	if err != nil {
		return err
	}
	defer closeStores(ctx, stores)
	uuid, err := identity(cfg.Root)
	if err != nil {
		return err
	}
	launcher := shims.New(shims.Config{
		State: cfg.State, Root: cfg.Root, Address: cfg.Address, Executable: exe, Version: cfg.Version,
		DefaultRuntime: cfg.DefaultRuntime, Runtimes: cfg.Runtimes, OCIRuntime: cfg.OCIRuntime, RuntimeRoot: cfg.RuntimeRoot, Debug: cfg.Debug,
	})
	service := tasks.New(tasks.Config{Launcher: launcher, Containers: stores.Containers, Events: broker})
	restarts := restart.New(restart.Config{
		State: filepath.Join(cfg.State, "restart"), Containers: stores.Containers, Tasks: service,
		Mounts: mountsOf(stores), Namespaces: namespacesOf(stores),
	})
	service.Observe(restarts)
	transfers := transfer.New(transferStores(stores), registry.New(registry.Config{HostDir: cfg.HostDir, UserAgent: "strata-supervisord/" + cfg.Version}))

	server := grpc.NewServer(rpc.ServerOptions()...)
	register(server, services{cfg: cfg, uuid: uuid, broker: broker, stores: stores, launcher: launcher, tasks: service, transfers: transfers})

	dropDeadTransfers(ctx, stores)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return stores.Run(gctx) })
	serveShims, err := listenTTRPC(cfg.Address+".ttrpc", service)
	if err != nil {
		return errors.Join(err, stopGroup(g))
	}
	g.Go(func() error { return serveShims(gctx) })
	if err := service.Load(gctx); err != nil {
		return errors.Join(err, stopGroup(g))
	}
	g.Go(func() error { return restarts.Run(gctx) })
	g.Go(func() error { return serveMetrics(gctx, cfg.MetricsAddress, service) })
	g.Go(func() error { return serveGRPC(gctx, cfg.Address, server, cfg.Ready) })
	g.Go(func() error { <-gctx.Done(); service.Close(); return nil })
	ctxlog.From(ctx).Info("supervisor started", ctxlog.Socket, cfg.Address, "version", cfg.Version)
	return g.Wait()
}

func makeDirs(cfg Config) error {
	for dir, perm := range map[string]os.FileMode{cfg.Root: 0o711, cfg.State: 0o711, filepath.Join(cfg.State, "s"): 0o700, filepath.Dir(cfg.Address): 0o755} {
		if err := os.MkdirAll(dir, perm); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}

func closeStores(ctx context.Context, s *storage.Storage) {
	ctx, cancel := cleanup.Context(ctx)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		ctxlog.From(ctx).Error("storage was not closed cleanly", ctxlog.Error, err)
	}
}

// identity returns the daemon's own id, which it makes at its first start.
func identity(root string) (string, error) {
	path := filepath.Join(root, "uuid")
	data, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(data)); err == nil && id != "" {
		return id, nil
	}
	id := newUUID()
	if err := atomicfile.Write(path, []byte(id+"\n"), 0o644, atomicfile.Durable); err != nil {
		return "", fmt.Errorf("keep own id: %w", err)
	}
	return id, nil
}

// mountsOf finds the mounts of a snapshot for a restart.
func mountsOf(s *storage.Storage) func(context.Context, string, string) ([]mount.Mount, error) {
	return func(ctx context.Context, snapshotter, key string) ([]mount.Mount, error) {
		sn, err := snapshotterOf(s, snapshotter)
		if err != nil {
			return nil, err
		}
		return sn.Mounts(ctx, key)
	}
}

func namespacesOf(s *storage.Storage) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		all, err := s.Namespaces.List(ctx)
		if err != nil {
			return nil, err
		}
		names := make([]string, 0, len(all))
		for _, ns := range all {
			names = append(names, ns.Name)
		}
		return names, nil
	}
}

func transferStores(s *storage.Storage) transfer.Stores {
	return transfer.Stores{Content: s.Content, Images: s.Images, Leases: s.Leases, Diff: s.Diff, Snapshotters: snapshotters(s), DefaultSnapshotter: defaultSnapshotter}
}

func wireStores(s *storage.Storage) grpcapi.Storage {
	return grpcapi.Storage{
		Namespaces: s.Namespaces, Content: s.Content, Images: s.Images, Containers: s.Containers, Leases: s.Leases,
		Snapshotters: snapshotters(s), Diff: s.Diff, Collect: s.GC.Collect,
	}
}

func snapshotters(s *storage.Storage) map[string]snapshots.Snapshotter {
	out := make(map[string]snapshots.Snapshotter, len(s.Snapshotters))
	for name, sn := range s.Snapshotters {
		out[name] = sn
	}
	return out
}

// services is what register puts on the wire.
type services struct {
	cfg       Config
	uuid      string
	broker    *events.Broker
	stores    *storage.Storage
	launcher  *shims.Launcher
	tasks     *tasks.Service
	transfers *transfer.Service
}

func register(s *grpc.Server, v services) {
	streams := grpcapi.NewStreams()
	grpcapi.RegisterStorage(s, wireStores(v.stores))
	grpcapi.RegisterTasks(s, v.tasks)
	grpcapi.RegisterEvents(s, v.broker, v.tasks)
	grpcapi.RegisterStreaming(s, streams)
	grpcapi.RegisterTransfer(s, v.transfers, streams)
	grpcapi.RegisterIntrospection(s, grpcapi.Introspection{UUID: v.uuid, Plugins: plugins(v.cfg, v.stores), Runtime: v.launcher})
	grpcapi.RegisterVersion(s, v.cfg.Version, v.cfg.Version)
	grpcapi.RegisterHealth(s)
	grpcapi.RegisterSupervisor(s, v.tasks, explainContainer(v.stores), examineContainers(v.stores), examineIngests(v.stores))
}
