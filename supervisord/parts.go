package supervisord

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/ctxlog"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/grpcapi"
	"strata/supervisord/internal/snapshots"
	"strata/supervisord/internal/storage"
	"strata/supervisord/internal/tasks"
	"strata/supervisord/internal/transfer"
)

// plugins lists our parts under the names that containerd's clients look for.
func plugins(cfg Config, s *storage.Storage) []grpcapi.Plugin {
	out := []grpcapi.Plugin{
		{Type: "io.containerd.content.v1", ID: "content", Exports: map[string]string{"root": filepath.Join(cfg.Root, "content")}},
		{Type: "io.containerd.metadata.v1", ID: "bolt", Exports: map[string]string{"policy": "shared"}},
		{Type: "io.containerd.gc.v1", ID: "scheduler"},
		{Type: "io.containerd.differ.v1", ID: "walking"},
		{Type: "io.containerd.event.v1", ID: "exchange"},
		{Type: "io.containerd.transfer.v1", ID: "local"},
		{Type: "io.containerd.streaming.v1", ID: "manager"},
		{Type: "io.containerd.runtime.v2", ID: "task", Exports: map[string]string{"root": filepath.Join(cfg.Root, "io.containerd.runtime.v2.task"), "state": filepath.Join(cfg.State, "io.containerd.runtime.v2.task")}},
		{Type: "io.containerd.internal.v1", ID: "restart"},
	}
	for name := range s.Snapshotters {
		out = append(out, grpcapi.Plugin{Type: "io.containerd.snapshotter.v1", ID: name, Exports: map[string]string{"root": filepath.Join(cfg.Root, name)}})
	}
	for _, id := range []string{"containers", "content", "diff", "events", "healthcheck", "images", "introspection", "leases", "namespaces", "snapshots", "streaming", "tasks", "transfer", "version"} {
		out = append(out, grpcapi.Plugin{Type: "io.containerd.grpc.v1", ID: id})
	}
	return out
}

func snapshotterOf(s *storage.Storage, name string) (snapshots.Snapshotter, error) {
	if name == "" {
		name = defaultSnapshotter
	}
	sn, ok := s.Snapshotters[name]
	if !ok {
		return nil, fmt.Errorf("snapshotter %q: %w", name, errdefs.ErrNotFound)
	}
	return sn, nil
}

// explainContainer lists what the stores hold of a container.
func explainContainer(s *storage.Storage) grpcapi.ContainerExplainer {
	return func(ctx context.Context, containerID string) ([]tasks.Object, error) {
		c, err := s.Containers.Get(ctx, containerID)
		if err != nil {
			return nil, err
		}
		const layer = "supervisord"
		out := []tasks.Object{{Kind: "record", ID: c.ID, Detail: fmt.Sprintf("image %q, runtime %q", c.Image, c.RuntimeName), Layer: layer}}
		if c.SnapshotKey == "" {
			return out, nil
		}
		out = append(out, tasks.Object{Kind: "snapshot", ID: c.SnapshotKey, Detail: "snapshotter " + c.Snapshotter, Layer: layer})
		sn, err := snapshotterOf(s, c.Snapshotter)
		if err != nil {
			return out, nil //nolint:nilerr // Doctor's business
		}
		mounts, err := sn.Mounts(ctx, c.SnapshotKey)
		if err != nil {
			return out, nil //nolint:nilerr // Doctor's business
		}
		for _, m := range mounts {
			out = append(out, tasks.Object{Kind: "layer", ID: m.Source, Detail: fmt.Sprintf("%s %v", m.Type, m.Options), Layer: layer})
		}
		return out, nil
	}
}

// everyNamespace calls fn in each namespace and joins the errors.
func everyNamespace(ctx context.Context, s *storage.Storage, fn func(ctx context.Context, ns string) error) error {
	all, err := s.Namespaces.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, ns := range all {
		errs = append(errs, fn(namespaces.With(ctx, ns.Name), ns.Name))
	}
	return errors.Join(errs...)
}

// examineContainers looks for records whose snapshot is gone. Nothing can mend that.
func examineContainers(s *storage.Storage) grpcapi.Check {
	return func(ctx context.Context, _ bool) ([]tasks.Finding, error) {
		var out []tasks.Finding
		err := everyNamespace(ctx, s, func(ctx context.Context, ns string) error {
			list, err := s.Containers.List(ctx)
			if err != nil {
				return err
			}
			for _, c := range list {
				if c.SnapshotKey == "" {
					continue
				}
				sn, err := snapshotterOf(s, c.Snapshotter)
				if err == nil {
					_, err = sn.Stat(ctx, c.SnapshotKey)
				}
				if errors.Is(err, errdefs.ErrNotFound) {
					out = append(out, tasks.Finding{Code: "missing-snapshot", Subject: ns + "/" + c.ID, Detail: err.Error(), Remedy: "remove the container and create it again"})
				}
			}
			return nil
		})
		return out, err
	}
}

// staleIngest is the age from which an ingest that nobody writes is worth telling.
const staleIngest = 7 * 24 * time.Hour

// examineIngests looks for downloads that nobody has resumed for a week.
func examineIngests(s *storage.Storage) grpcapi.Check {
	return func(ctx context.Context, repair bool) ([]tasks.Finding, error) {
		var out []tasks.Finding
		err := everyNamespace(ctx, s, func(ctx context.Context, ns string) error {
			list, err := s.Content.ListStatuses(ctx)
			if err != nil {
				return err
			}
			for _, st := range list {
				if time.Since(st.UpdatedAt) < staleIngest {
					continue
				}
				f := tasks.Finding{Code: "orphan-ingest", Subject: ns + "/" + st.Ref, Detail: fmt.Sprintf("%d bytes, last written %s", st.Offset, st.UpdatedAt.Format(time.RFC3339)), Remedy: "abort it with --repair"}
				if repair && s.Content.Abort(ctx, st.Ref) == nil {
					f.Repaired, f.Remedy = true, "aborted"
				}
				out = append(out, f)
			}
			return nil
		})
		return out, err
	}
}

// dropDeadTransfers ends the leases of transfers that an earlier daemon did not finish and
// nobody can resume: archives come from a client, once.
func dropDeadTransfers(ctx context.Context, s *storage.Storage) {
	err := everyNamespace(ctx, s, func(ctx context.Context, _ string) error {
		list, err := s.Leases.List(ctx)
		for _, l := range list {
			if what := l.Labels[transfer.LabelTransfer]; strings.HasPrefix(what, "import ") || strings.HasPrefix(what, "export ") {
				err = errors.Join(err, s.Leases.Delete(ctx, l.ID, false))
			}
		}
		return err
	})
	if err != nil {
		ctxlog.From(ctx).Warn("leases of unfinished imports stay until they expire", ctxlog.Error, err)
	}
}
