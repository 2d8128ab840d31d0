package httpapi

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	apibuild "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/volume"

	"strata/engined/internal/buildkit"
	"strata/engined/internal/containers"
	"strata/engined/internal/images"
	"strata/engined/internal/volumes"
)

// usage finds out what takes room on the disk.
type usage struct {
	images     *images.Service
	volumes    *volumes.Manager
	containers *containers.Service
	builds     *buildkit.Service
}

// diskUsage is the answer of /system/df before 1.52.
type diskUsage struct {
	LayersSize  int64
	Images      []imageSummary
	Containers  []summary
	Volumes     []volume.Volume
	BuildCache  []apibuild.CacheRecord
	BuilderSize int64
}

func (a systemAPI) df(w http.ResponseWriter, r *request) error {
	types := r.URL.Query()["type"]
	for _, t := range types {
		if !slices.Contains([]string{"container", "image", "volume", "build-cache"}, t) {
			return invalid("unknown object type: %s", t)
		}
	}
	want := func(kind string) bool { return len(types) == 0 || slices.Contains(types, kind) }
	var out diskUsage
	var err error
	if want("container") {
		if out.Containers, err = a.containerUsage(r); err != nil {
			return err
		}
	}
	if want("image") {
		list, err := a.usage.images.List(r.Context(), images.ListOptions{SharedSize: true})
		if err != nil {
			return err
		}
		out.Images = []imageSummary{}
		for _, s := range list {
			sum := toSummary(s, r)
			sum.Containers = s.Containers // df counts them in every version
			out.Images = append(out.Images, sum)
		}
		if out.LayersSize, err = a.usage.images.LayersSize(r.Context()); err != nil {
			return err
		}
	}
	if want("volume") {
		out.Volumes = a.usage.volumeUsage(r.Context())
	}
	if want("build-cache") {
		var err error
		if out.BuildCache, err = buildCache(r.Context(), a.usage.builds); err != nil {
			return err
		}
		for _, c := range out.BuildCache {
			out.BuilderSize += c.Size
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

func (u usage) volumeUsage(ctx context.Context) []volume.Volume {
	out := []volume.Volume{}
	for _, v := range u.volumes.List() {
		w := toVolume(v)
		w.UsageData = &volume.UsageData{RefCount: int64(len(u.volumes.Users(v.Name))), Size: treeSize(ctx, v.Mountpoint)}
		out = append(out, w)
	}
	return out
}

// treeSize returns the bytes that a tree takes; hard links count once, and what cannot be
// read not at all.
func treeSize(ctx context.Context, dir string) int64 {
	var total int64
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error { // what vanishes meanwhile takes no room
		if ctx.Err() != nil {
			return filepath.SkipAll
		}
		if err != nil {
			return nil //nolint:nilerr // said above
		}
		info, err := e.Info()
		if err != nil {
			return nil //nolint:nilerr // vanished
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
			total += info.Size()
		}
		return nil
	})
	return total
}
