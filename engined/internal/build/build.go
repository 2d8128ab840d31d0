package build

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/records"
)

// Build does what r asks for. Errors: *dockerfile.Error for mistakes in the Dockerfile,
// *CommandError, ErrNotFound for missing images and files, ErrInvalidArgument,
// ErrPermissionDenied for what the operator or the client does not allow,
// ErrNotImplemented, context.Canceled.
func (s *Service) Build(ctx context.Context, r Request, o Observer) (Result, error) {
	v, err := s.Solve(ctx, r, o)
	if err != nil {
		return Result{}, err
	}
	defer v.Close()
	return v.Export(ctx, r.Outputs)
}

// builder is one build.
type builder struct {
	s        *Service
	r        Request
	o        Observer
	started  time.Time
	epoch    time.Time // of all that is made; zero for none
	dated    string    // the same in seconds, "" for none
	products []*product
	contexts map[string]*lazy // by name; "" is the main one
	repos    repos
	imports  imports
	links    links

	mu       sync.Mutex
	plain    map[*dockerfile.Vertex]string
	stale    map[*dockerfile.Vertex]bool // to be made again, or upon what is
	solving  map[*dockerfile.Vertex]*promise
	reported map[*dockerfile.Vertex]bool
	undo     []func()
	fetched  []Material // from the network

	failing sync.Mutex // held while the client looks at a failure

	wg    sync.WaitGroup
	lease sync.Once
	held  func(context.Context) context.Context
}

func newBuilder(s *Service, r Request, o Observer) *builder {
	return &builder{
		s: s, r: r, o: o, started: time.Now().UTC(),
		plain: map[*dockerfile.Vertex]string{}, stale: map[*dockerfile.Vertex]bool{},
		solving: map[*dockerfile.Vertex]*promise{}, reported: map[*dockerfile.Vertex]bool{},
	}
}

// product is the result for one platform.
type product struct {
	platform ocispec.Platform // as it was asked for
	plan     *dockerfile.Plan
	top      *records.Record
}

// plan compiles the Dockerfile for each platform.
func (b *builder) plan(ctx context.Context) error {
	wanted := b.r.Platforms
	if len(wanted) == 0 {
		wanted = []ocispec.Platform{b.s.host}
	}
	seen := map[string]bool{}
	for _, p := range wanted {
		p = platforms.Normalize(p)
		if name := platforms.FormatAll(p); !seen[name] {
			seen[name] = true
			b.products = append(b.products, &product{platform: p})
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range b.products {
		g.Go(func() (err error) {
			p.plan, err = b.compile(gctx, p.platform, false)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.warn()
		return err
	}
	if b.epoch = b.products[0].plan.Epoch; !b.epoch.IsZero() {
		b.dated = strconv.FormatInt(b.epoch.Unix(), 10)
	}
	plans := make([]*dockerfile.Plan, 0, len(b.products))
	for _, p := range b.products {
		plans = append(plans, p.plan)
	}
	if err := b.openContexts(plans); err != nil {
		return err
	}
	b.o.Planned(plans)
	return nil
}

// warn tells what the linter has to say of a Dockerfile that cannot be built.
func (b *builder) warn() {
	for _, p := range b.products {
		if p.plan != nil && len(p.plan.Warnings) > 0 {
			b.o.Planned([]*dockerfile.Plan{{Warnings: p.plan.Warnings}})
			return
		}
	}
}

// compile reads the Dockerfile for one platform.
func (b *builder) compile(ctx context.Context, p ocispec.Platform, all bool) (*dockerfile.Plan, error) {
	exclude, err := IgnorePatterns(b.r.Dockerfile.Ignore)
	if err != nil {
		return nil, err
	}
	return dockerfile.Compile(ctx, b.r.Dockerfile.Text, dockerfile.Options{
		Args: b.r.Args, Labels: b.r.Labels, Target: b.r.Target, Platform: p, Host: b.s.host, Contexts: b.namedContexts(), Base: b.base,
		Ignore: exclude, AllStages: all, Asked: len(b.r.Platforms) > 0,
	})
}

// Outline says what the target of a Dockerfile can be given; it looks at no image.
func (s *Service) Outline(ctx context.Context, r Request) (*dockerfile.Outline, error) {
	b := newBuilder(s, r, nil)
	p := s.host
	if len(r.Platforms) > 0 {
		p = platforms.Normalize(r.Platforms[0])
	}
	return dockerfile.ReadOutline(ctx, r.Dockerfile.Text, dockerfile.Options{Args: r.Args, Target: r.Target, Platform: p, Host: s.host, Contexts: b.namedContexts()})
}

// Check says what the linter has to say of a Dockerfile, and (as err) whether it could be
// built as far as can be seen without building: it pulls the images that stages are built
// upon, and runs nothing. Without a target, all stages are looked at.
func (s *Service) Check(ctx context.Context, r Request, o Observer) ([]dockerfile.Warning, error) {
	b := newBuilder(s, r, o)
	defer b.end()
	p := s.host
	if len(r.Platforms) > 0 {
		p = platforms.Normalize(r.Platforms[0])
	}
	plan, err := b.compile(ctx, p, r.Target == "")
	if plan == nil {
		return nil, err
	}
	return plan.Warnings, err
}

// solveAll makes the filesystems of all products, side by side.
func (b *builder) solveAll(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends what a failure has left running
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range b.products {
		g.Go(func() (err error) {
			p.top, err = b.solve(gctx, p.plan.Target)
			return err
		})
	}
	err := g.Wait()
	if err != nil {
		cancel()
		b.wait()
	}
	return err
}

// task does work that no Dockerfile has, and tells of it.
func (b *builder) task(name string, fn func(v *dockerfile.Vertex) error) error {
	v := &dockerfile.Vertex{Name: name}
	b.o.Added(v)
	b.o.Started(v, "")
	start := time.Now()
	err := fn(v)
	b.o.Ended(v, Ending{Err: err, Took: time.Since(start)})
	return err
}

func (b *builder) wait() { b.wg.Wait() }

// end lets go of all that the build held.
func (b *builder) end() {
	b.wg.Wait()
	b.mu.Lock()
	undo := b.undo
	b.mu.Unlock()
	for _, fn := range slices.Backward(undo) {
		fn()
	}
}

func (b *builder) later(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.undo = append(b.undo, fn)
}

// leased returns ctx with the build's lease, which is taken when something is made.
func (b *builder) leased(ctx context.Context) (context.Context, error) {
	var err error
	b.lease.Do(func() {
		var lctx context.Context
		var done func()
		if lctx, done, err = b.s.sup.WithLease(ctx); err == nil {
			b.later(done)
			b.held = func(c context.Context) context.Context { return withValues{c, lctx} }
		}
	})
	if err != nil {
		return nil, err
	}
	if b.held == nil {
		return nil, fmt.Errorf("build has no lease: %w", errdefs.ErrUnavailable)
	}
	return b.held(ctx), nil
}

// withValues is a context with the values of another.
type withValues struct {
	context.Context //nolint:containedctx // it is one
	values          context.Context
}

func (w withValues) Value(key any) any {
	if v := w.values.Value(key); v != nil {
		return v
	}
	return w.Context.Value(key)
}
