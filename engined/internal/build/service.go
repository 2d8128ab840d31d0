package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/files"
	"strata/engined/internal/build/records"
	"strata/engined/internal/images"
	"strata/engined/internal/networks"
	"strata/engined/internal/spec"
	"strata/engined/internal/supervisor"
	"strata/pkg/ctxlog"
)

// Config is what the operator decides about builds.
type Config struct {
	DataRoot string
	ExecRoot string // on tmpfs
	Runtime  string // shim, "io.containerd.strata.v2"
	Options  supervisor.RuntimeOptions
	ShimPath string // logger under a foreign shim
	Cgroup   spec.Cgroup
	ShmSize  int64
	Ulimits  map[string]*container.Ulimit
	Seccomp  string
	// CgroupnsMode of commands.
	CgroupnsMode container.CgroupnsMode
	// Policies are applied to the cache after each build that made something, in their order.
	Policies []Policy
	// Denied are entitlements that no client can grant.
	Denied []string
}

// Policy says what of the cache may go by itself.
type Policy struct {
	All       bool          // also what images consist of, which then keep it for themselves
	Keep      int64         // bytes that always stay; zero for none
	MaxUsed   int64         // bytes that may stay; zero for what Keep and MinFree leave
	MinFree   int64         // bytes of the disk that are to be free; zero for any
	UnusedFor time.Duration // only what was not used for so long; zero for any
	Types     []string      // only these; none for any
}

// DefaultKeep is how much cache stays if nobody says otherwise, in bytes.
const DefaultKeep = 20 << 30

// limits of a build context: its index is in memory, about 400 bytes for a file.
var contextLimits = files.Limits{Bytes: 64 << 30, Entries: 2_000_000}

// Service builds images. It is safe for concurrent use.
type Service struct {
	cfg    Config
	sup    *supervisor.Client
	images *images.Service
	nets   *networks.Manager
	cache  *records.Store
	host   ocispec.Platform
	mounts keyed // cache mounts in use, by id

	rebasing  sync.Mutex
	canRebase *bool // nil until somebody has asked

	mu     sync.Mutex
	flight map[string]*flight // what is being made, by content key
	inUse  map[string]int     // records of running builds
}

// New opens the cache. Close the Service.
func New(cfg Config, sup *supervisor.Client, imgs *images.Service, nets *networks.Manager) (*Service, error) {
	s := &Service{cfg: cfg, sup: sup, images: imgs, nets: nets, host: platforms.DefaultSpec(), flight: map[string]*flight{}, inUse: map[string]int{}}
	for _, dir := range []string{s.tmpDir(), s.cacheDir(), s.runDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("build: %w", err)
		}
	}
	if err := s.sweepMounts(); err != nil {
		return nil, fmt.Errorf("remove what builds have left: %w", err)
	}
	// Nothing below tmp outlives the process that made it.
	entries, err := os.ReadDir(s.tmpDir())
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.tmpDir(), e.Name())))
	}
	if err != nil {
		return nil, fmt.Errorf("remove what builds have left: %w", err)
	}
	s.cache, err = records.Open(filepath.Join(cfg.DataRoot, "build.db"))
	return s, err
}

// Close ends the Service. No build may be running.
func (s *Service) Close() error { return s.cache.Close() }

func (s *Service) tmpDir() string   { return filepath.Join(s.cfg.DataRoot, "build", "tmp") }
func (s *Service) cacheDir() string { return filepath.Join(s.cfg.DataRoot, "build", "cache") }
func (s *Service) runDir() string   { return filepath.Join(s.cfg.ExecRoot, "build") }

// labelBuild marks containers and snapshots of builds.
const labelBuild = "strata.build"

// Run removes what builds of an engine that died have left, and waits for ctx.
func (s *Service) Run(ctx context.Context) error {
	if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
		ctxlog.From(ctx).Warn("leftovers of builds were not removed; the next start will", ctxlog.Error, err)
	}
	<-ctx.Done()
	return nil
}

// sweep removes containers and snapshots that no record and no build knows.
func (s *Service) sweep(ctx context.Context) error {
	left, err := s.sup.Containers(ctx, fmt.Sprintf("labels.%q==true", labelBuild))
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range left {
		if !s.running(c.ID) {
			errs = append(errs, s.discard(ctx, c.ID))
		}
	}
	known, err := s.cache.All()
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, r := range known {
		kept[r.Snapshot] = true
	}
	snaps, err := s.sup.Snapshots(ctx, s.images.Snapshotter(), fmt.Sprintf("labels.%q==true", labelBuild))
	if err != nil {
		return err
	}
	for _, snap := range slices.Backward(snaps) {
		if n := snap.Name; !kept[n] && !s.running(n) && !snap.Committed {
			if err := s.sup.RemoveSnapshot(ctx, s.images.Snapshotter(), n); err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// hold keeps a name (of a record, container or snapshot) from prune and sweep.
func (s *Service) hold(name string) (release func()) {
	s.mu.Lock()
	s.inUse[name]++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.inUse[name]--; s.inUse[name] <= 0 {
			delete(s.inUse, name)
		}
	}
}

func (s *Service) running(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inUse[name] > 0
}

// keyed is a lock per name that can be tried.
type keyed struct {
	mu    sync.Mutex
	locks map[string]chan struct{}
}

func (k *keyed) get(name string) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks == nil {
		k.locks = map[string]chan struct{}{}
	}
	if k.locks[name] == nil {
		k.locks[name] = make(chan struct{}, 1) // holds one token: the lock
	}
	return k.locks[name]
}

// lock waits for the lock of name.
func (k *keyed) lock(ctx context.Context, name string) (unlock func(), err error) {
	l := k.get(name)
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// try takes the lock of name if it is free.
func (k *keyed) try(name string) (unlock func(), ok bool) {
	l := k.get(name)
	select {
	case l <- struct{}{}:
		return func() { <-l }, true
	default:
		return nil, false
	}
}

// flight is a vertex being made for one build while others may wait for it.
type flight struct {
	done chan struct{}
	rec  *records.Record
	err  error
}
