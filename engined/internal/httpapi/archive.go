package httpapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/containers"
	"strata/pkg/linux/archive"
)

// rootfsProvider gives access to the files of containers.
type rootfsProvider interface {
	// WithRootfs calls fn with the path of the container's root filesystem, volumes
	// included, mounted for the time of the call if the container does not run.
	WithRootfs(ctx context.Context, containerID string, fn func(root string) error) error
	// WithOwnRootfs does the same without what is mounted in it.
	WithOwnRootfs(ctx context.Context, containerID string, fn func(root string) error) error
	// RootfsLayers returns the container's own layer and those below it, topmost first.
	RootfsLayers(ctx context.Context, containerID string) (upper string, lowers []string, err error)
	// ProcessUser returns the numeric user and group of the container's process.
	ProcessUser(ctx context.Context, containerID string) (uid, gid int, err error)
}

// archiveAPI serves cp, export and diff.
type archiveAPI struct {
	rootfs rootfsProvider
}

func (a archiveAPI) routes() []route {
	return []route{
		{http.MethodHead, "/containers/{name}/archive", a.stat},
		{http.MethodGet, "/containers/{name}/archive", a.read},
		{http.MethodPut, "/containers/{name}/archive", a.write},
		{http.MethodGet, "/containers/{name}/export", a.export},
		{http.MethodGet, "/containers/{name}/changes", a.changes},
	}
}

const tarType = "application/x-tar"

// archivePath returns the required "path" of the query.
func archivePath(r *request) (string, error) {
	p := r.Query("path")
	if p == "" {
		return "", fmt.Errorf("missing query parameter: path: %w", errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// setPathStat describes name in the header that clients read before the body.
func setPathStat(w http.ResponseWriter, root, name string) error {
	st, err := archive.Stat(root, name)
	if err != nil {
		return err
	}
	data, err := json.Marshal(container.PathStat{Name: st.Name, Size: st.Size, Mode: st.Mode, Mtime: st.ModTime, LinkTarget: st.LinkTarget})
	if err != nil {
		return fmt.Errorf("encode path stat: %w", err)
	}
	w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(data))
	return nil
}

// missing words a missing file as clients know it.
func missing(err error, r *request, name string) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("Could not find the file %s in container %s: %w", name, r.Var("name"), errdefs.ErrNotFound) //nolint:staticcheck // dockerd's words
	}
	return err
}

func (a archiveAPI) stat(w http.ResponseWriter, r *request) error {
	name, err := archivePath(r)
	if err != nil {
		return err
	}
	return a.rootfs.WithRootfs(r.Context(), r.Var("name"), func(root string) error {
		if err := setPathStat(w, root, name); err != nil {
			return missing(err, r, name)
		}
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

func (a archiveAPI) read(w http.ResponseWriter, r *request) error {
	name, err := archivePath(r)
	if err != nil {
		return err
	}
	return a.rootfs.WithRootfs(r.Context(), r.Var("name"), func(root string) error {
		if err := setPathStat(w, root, name); err != nil {
			return missing(err, r, name)
		}
		w.Header().Set("Content-Type", tarType)
		return archive.Read(r.Context(), root, name, w)
	})
}

func (a archiveAPI) write(w http.ResponseWriter, r *request) error {
	name, err := archivePath(r)
	if err != nil {
		return err
	}
	opts := archive.WriteOptions{NoOverwriteDirNonDir: r.Bool("noOverwriteDirNonDir")}
	if r.Bool("copyUIDGID") {
		uid, gid, err := a.rootfs.ProcessUser(r.Context(), r.Var("name"))
		if err != nil {
			return err
		}
		opts.Owner = &archive.Owner{UID: uid, GID: gid}
	}
	return a.rootfs.WithRootfs(r.Context(), r.Var("name"), func(root string) error {
		if err := archive.Write(root, name, r.Body, opts); err != nil {
			return missing(err, r, name)
		}
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

func (a archiveAPI) export(w http.ResponseWriter, r *request) error {
	return a.rootfs.WithOwnRootfs(r.Context(), r.Var("name"), func(root string) error {
		w.Header().Set("Content-Type", tarType)
		return archive.Export(r.Context(), root, w)
	})
}

func (a archiveAPI) changes(w http.ResponseWriter, r *request) error {
	upper, lowers, err := a.rootfs.RootfsLayers(r.Context(), r.Var("name"))
	if err != nil {
		return err
	}
	changes, err := archive.Changes(upper, lowers)
	if err != nil {
		return err
	}
	out := make([]container.FilesystemChange, 0, len(changes))
	for _, c := range withoutMountPoints(changes) {
		out = append(out, container.FilesystemChange{Kind: container.ChangeType(c.Kind), Path: c.Path})
	}
	return writeJSON(w, http.StatusOK, out)
}

// startMakes are what starting any container adds to its layer: the places where something
// is mounted. They are no change of the user's.
var startMakes = []string{
	"/dev", "/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/proc", "/sys",
	"/sbin/docker-init", containers.MarkFile,
}

// withoutMountPoints leaves mount points out, and directories that changed only because one
// was added to them.
func withoutMountPoints(changes []archive.Change) []archive.Change {
	var out []archive.Change
	hidden := map[string]bool{}                  // directories from which a mount point was left out
	for _, c := range slices.Backward(changes) { // what is below a directory comes first
		if c.Kind == archive.Added && slices.Contains(startMakes, c.Path) {
			hidden[path.Dir(c.Path)] = true
			continue
		}
		below := func(o archive.Change) bool { return strings.HasPrefix(o.Path, c.Path+"/") }
		if hidden[c.Path] && !slices.ContainsFunc(out, below) {
			hidden[path.Dir(c.Path)] = true
			continue
		}
		out = append(out, c)
	}
	slices.Reverse(out)
	return out
}
