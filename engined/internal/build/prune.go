package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strata/engined/internal/build/records"
	"strata/pkg/linux/tree"
)

// Usage describes one thing in the cache.
type Usage struct {
	ID          string
	Parents     []string
	Type        string // "regular", "exec.cachemount"
	Description string
	InUse       bool
	Shared      bool // an image consists of it, too
	Size        int64
	CreatedAt   time.Time
	LastUsedAt  time.Time
	UsageCount  int
}

// cacheMountType is the word of BuildKit for what RUN --mount=type=cache keeps.
const cacheMountType = "exec.cachemount"

// DiskUsage lists the cache.
func (s *Service) DiskUsage(ctx context.Context) ([]Usage, error) {
	all, err := s.cache.All()
	if err != nil {
		return nil, err
	}
	images := s.imageChains(ctx)
	var out []Usage
	for _, r := range all {
		u := Usage{
			ID: shortKey(r.Key), Type: "regular", Description: r.Name, InUse: s.running(r.Key), Shared: images[r.Snapshot],
			Size: r.Size, CreatedAt: r.Created, LastUsedAt: r.LastUsed, UsageCount: r.Uses,
		}
		if isRecord(r.Parent) {
			u.Parents = []string{shortKey(r.Parent)}
		}
		if r.Link != "" {
			u.Parents = append(u.Parents, shortKey(r.Link))
		}
		out = append(out, u)
	}
	mounts, err := s.cacheMounts(ctx)
	out = append(out, mounts...)
	slices.SortFunc(out, func(a, b Usage) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return out, err
}

func shortKey(k string) string { return strings.TrimPrefix(k, "sha256:")[:25] }

// imageChains are the snapshots that images refer to.
func (s *Service) imageChains(ctx context.Context) map[string]bool {
	out := map[string]bool{}
	infos, err := s.sup.ContentInfos(ctx, `labels."containerd.io/gc.ref.snapshot.`+s.images.Snapshotter()+`"`)
	if err != nil {
		return out // only a remark depends on it
	}
	for _, i := range infos {
		for k, v := range i.Labels {
			if strings.HasPrefix(k, "containerd.io/gc.ref.snapshot.") {
				out[v] = true
			}
		}
	}
	return out
}

// cacheMounts lists the directories of RUN --mount=type=cache.
func (s *Service) cacheMounts(ctx context.Context) ([]Usage, error) {
	ids, err := filepath.Glob(filepath.Join(s.cacheDir(), "*.id"))
	if err != nil {
		return nil, err
	}
	var out []Usage
	for _, file := range ids {
		id, err := os.ReadFile(file)
		if err != nil {
			return out, err
		}
		info, err := os.Stat(file)
		if err != nil {
			return out, err
		}
		dir := strings.TrimSuffix(file, ".id")
		_, size, err := tree.Usage(ctx, dir)
		if err != nil {
			return out, err
		}
		out = append(out, Usage{
			ID: filepath.Base(dir), Type: cacheMountType, Description: "cached mount " + string(id), Size: size,
			InUse: s.running("cache:" + filepath.Base(dir)), CreatedAt: info.ModTime().UTC(), LastUsedAt: info.ModTime().UTC(),
		})
	}
	return out, nil
}

// PruneRequest says what of the cache goes.
type PruneRequest struct {
	All   bool      // also what images consist of, which then keep it for themselves
	Until time.Time // only what was last used before; zero for any
	IDs   []string  // only these; none for any
	Types []string  // only these; none for any

	Keep    int64 // bytes that always stay; zero for none
	MaxUsed int64 // bytes that may stay; zero for what Keep and MinFree leave
	MinFree int64 // bytes of the data root's disk that are to be free; zero for any

	auto bool // after a build: cache mounts count, but stay until nothing else is left
}

// Pruned is what went.
type Pruned struct {
	IDs       []string
	Reclaimed int64
}

// Whole reports whether nothing has to stay.
func (r PruneRequest) Whole() bool { return r.Keep == 0 && r.MaxUsed == 0 && r.MinFree == 0 }

// room returns how many bytes of a cache of total bytes stay, on a disk with free bytes.
//
// Source: moby/buildkit cache/manager.go "calculateKeepBytes"; there MinFree alone removes
// everything if there is room.
func (r PruneRequest) room(total, free int64) int64 {
	stay := r.MaxUsed
	if r.MinFree > 0 {
		left := max(0, total-max(0, r.MinFree-free))
		if stay == 0 || stay > left {
			stay = left
		}
	}
	return max(stay, r.Keep)
}

// Prune removes what of the cache is not in use, the least recently used first, until no
// more is left than may stay.
func (s *Service) Prune(ctx context.Context, r PruneRequest) (Pruned, error) {
	return s.pruned(ctx, r)
}

// Policies are what is applied to the cache after each build.
func (s *Service) Policies() []Policy { return s.cfg.Policies }

// collect applies the policies.
func (s *Service) collect(ctx context.Context) error {
	var err error
	for _, p := range s.cfg.Policies {
		r := PruneRequest{All: p.All, Keep: p.Keep, MaxUsed: p.MaxUsed, MinFree: p.MinFree, Types: p.Types, auto: true}
		if p.UnusedFor > 0 {
			r.Until = time.Now().Add(-p.UnusedFor)
		}
		_, perr := s.pruned(ctx, r)
		err = errors.Join(err, perr)
	}
	return err
}

func (s *Service) pruned(ctx context.Context, r PruneRequest) (Pruned, error) {
	var out Pruned
	all, err := s.cache.All()
	if err != nil {
		return out, err
	}
	total := int64(0)
	for _, rec := range all {
		total += rec.Size
	}
	if r.auto && r.MinFree == 0 && total <= max(r.Keep, r.MaxUsed) && !r.Whole() {
		return out, nil
	}
	mounts, err := s.cacheMounts(ctx)
	if err != nil {
		return out, err
	}
	for _, m := range mounts {
		total += m.Size
	}
	free, err := tree.Free(s.cfg.DataRoot)
	if err != nil {
		return out, err
	}
	p := &pruning{s: s, r: r, left: total, room: r.room(total, free), images: map[string]bool{}}
	if !r.All {
		p.images = s.imageChains(ctx)
	}
	err = p.records(ctx, all)
	if err == nil {
		err = p.mounts(mounts)
	}
	return p.out, err
}

// pruning is one run of Prune.
type pruning struct {
	s          *Service
	r          PruneRequest
	left, room int64           // bytes that there are, and that may stay
	images     map[string]bool // snapshots that images keep
	out        Pruned
}

// enough reports whether no more has to go.
func (p *pruning) enough() bool { return p.left <= p.room && !p.r.Whole() }

func (p *pruning) removed(id string, size int64) {
	p.left -= size
	p.out.IDs, p.out.Reclaimed = append(p.out.IDs, id), p.out.Reclaimed+size
}

// records removes leaves first: a record goes only when nothing is built upon it.
func (p *pruning) records(ctx context.Context, all map[string]*records.Record) error {
	for {
		gone := map[string]bool{}
		for _, rec := range leaves(all) {
			if p.enough() {
				break
			}
			if p.s.running(rec.Key) || p.images[rec.Snapshot] || !p.r.wants(shortKey(rec.Key), "regular", rec.LastUsed) {
				continue
			}
			removed, err := p.s.drop(ctx, rec, all)
			if err != nil {
				return err
			}
			if removed {
				gone[rec.Key] = true
				p.removed(shortKey(rec.Key), rec.Size)
			}
		}
		if err := p.s.cache.Forget(gone); err != nil {
			return err
		}
		for k := range gone {
			delete(all, k)
		}
		if len(gone) == 0 {
			return nil
		}
	}
}

// mounts removes what RUN --mount=type=cache keeps.
func (p *pruning) mounts(list []Usage) error {
	for _, m := range list {
		if m.InUse || p.enough() || !p.r.wants(m.ID, m.Type, m.LastUsedAt) {
			continue
		}
		dir := filepath.Join(p.s.cacheDir(), m.ID)
		if err := errors.Join(os.RemoveAll(dir), os.Remove(dir+".id")); err != nil {
			return fmt.Errorf("remove cache mount: %w", err)
		}
		p.removed(m.ID, m.Size)
	}
	return nil
}

func (r PruneRequest) wants(id, kind string, used time.Time) bool {
	return (r.Until.IsZero() || used.Before(r.Until)) &&
		(len(r.Types) == 0 || slices.Contains(r.Types, kind)) &&
		(len(r.IDs) == 0 || slices.ContainsFunc(r.IDs, func(p string) bool { return strings.HasPrefix(id, p) }))
}

// leaves are the records that no other builds upon, the least recently used first.
func leaves(all map[string]*records.Record) []*records.Record {
	parents := map[string]bool{}
	for _, r := range all {
		parents[r.Parent], parents[r.Link] = true, true
	}
	var out []*records.Record
	for _, r := range all {
		if !parents[r.Key] {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *records.Record) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), strings.Compare(a.Key, b.Key))
	})
	return out
}

// drop gives a record's snapshot and layer to the supervisor's collector. It reports false
// if something else needs the snapshot.
func (s *Service) drop(ctx context.Context, rec *records.Record, all map[string]*records.Record) (bool, error) {
	if rec.Layer != nil && !shared(all, rec, func(o *records.Record) bool {
		return o.Layer != nil && o.Layer.Descriptor.Digest == rec.Layer.Descriptor.Digest
	}) {
		if err := s.unroot(ctx, rec.Layer.Descriptor.Digest); err != nil {
			return false, err
		}
	}
	if !rec.Own {
		return true, nil
	}
	err := s.sup.UnlabelSnapshot(ctx, s.images.Snapshotter(), rec.Snapshot, "containerd.io/gc.root", labelBuild)
	if err != nil && !errdefs.IsNotFound(err) {
		return false, fmt.Errorf("release snapshot %s: %w", rec.Snapshot, err)
	}
	return true, nil
}

func (s *Service) unroot(ctx context.Context, d digest.Digest) error {
	err := s.sup.LabelContent(ctx, d, map[string]string{"containerd.io/gc.root": "", labelBuild: ""})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("release layer %s: %w", d, err)
	}
	return nil
}

// shared reports whether another record fits.
func shared(all map[string]*records.Record, rec *records.Record, fits func(*records.Record) bool) bool {
	for _, o := range all {
		if o.Key != rec.Key && fits(o) {
			return true
		}
	}
	return false
}
