package gc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// graph is a Part in memory.
type graph struct {
	mu      sync.Mutex
	barrier *Barrier
	edges   map[string][]string
	roots   map[string]bool
	nodes   map[string]bool
	back    map[string]string // holder of a node
	pause   func()            // called while marking
}

func newGraph() *graph {
	return &graph{barrier: &Barrier{}, edges: map[string][]string{}, roots: map[string]bool{}, nodes: map[string]bool{}, back: map[string]string{}}
}

func node(key string) Node { return Node{Namespace: "ns", Type: "t", Key: key} }

func (g *graph) Owns(t string) bool { return t == "t" }

func (g *graph) Scan(_ context.Context, v Visitor) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for k := range g.nodes {
		v.Candidate(node(k))
		if g.roots[k] {
			v.Root(node(k))
		}
		if h := g.back[k]; h != "" {
			v.Back(node(h), node(k))
		}
	}
	return nil
}

func (g *graph) References(_ context.Context, n Node, emit func(Node)) error {
	if g.pause != nil {
		g.pause()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.edges[n.Key] {
		emit(node(k))
	}
	return nil
}

func (g *graph) Sweep(_ context.Context, nodes []Node) (func(), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range nodes {
		delete(g.nodes, n.Key)
	}
	return nil, nil
}

func (g *graph) add(root bool, key string, refs ...string) {
	defer g.barrier.Enter()()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nodes[key], g.roots[key] = true, root
	g.edges[key] = append(g.edges[key], refs...)
	g.barrier.Touch(node(key))
}

func (g *graph) left() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for k := range g.nodes {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func TestCollectRemovesWhatNothingHolds(t *testing.T) {
	g := newGraph()
	g.add(true, "root", "a")
	g.add(false, "a", "b", "missing")
	g.add(false, "b", "a")
	g.add(false, "ring1", "ring2")
	g.add(false, "ring2", "ring1")
	g.add(false, "held by a")
	g.back["held by a"] = "a"
	g.add(false, "alone")
	stats, err := New(g.barrier, g).Collect(t.Context())
	if err != nil || stats.Removed != 3 {
		t.Errorf("Collect = %+v, %v; want 3 removed", stats, err)
	}
	if got, want := g.left(), []string{"a", "b", "held by a", "root"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}

// TestWhatIsHeldWhileMarkingStays moves the only edge to a node from a place that was
// not marked yet to one that was.
func TestWhatIsHeldWhileMarkingStays(t *testing.T) {
	g := newGraph()
	g.add(true, "done") // marked before the pause
	g.add(false, "moved", "child")
	g.add(false, "child")
	var once sync.Once
	g.pause = func() {
		once.Do(func() {
			g.add(true, "new root", "fresh")
			g.add(false, "fresh")
			defer g.barrier.Enter()()
			g.mu.Lock()
			defer g.mu.Unlock()
			g.edges["done"] = append(g.edges["done"], "moved")
			g.barrier.Touch(node("done"), node("moved"))
		})
	}
	if _, err := New(g.barrier, g).Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := g.left(), []string{"child", "done", "fresh", "moved", "new root"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}

// TestWritersAndCollectorsRace keeps one tree alive by handing it from root to root.
func TestWritersAndCollectorsRace(t *testing.T) {
	g := newGraph()
	c := New(g.barrier, g)
	g.add(true, "root 0", "payload")
	g.add(false, "payload", "leaf")
	g.add(false, "leaf")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			func() {
				defer g.barrier.Enter()()
				g.mu.Lock()
				defer g.mu.Unlock()
				old, now := fmt.Sprint("root ", i-1), fmt.Sprint("root ", i)
				g.nodes[now], g.roots[now], g.edges[now] = true, true, []string{"payload"}
				g.barrier.Touch(node(now), node("payload"))
				delete(g.roots, old)
				delete(g.edges, old)
			}()
		}
	})
	for range 300 {
		if _, err := c.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := g.left(); !slices.Contains(left, "payload") || !slices.Contains(left, "leaf") {
			t.Fatalf("what was held is gone: %q", left)
		}
	}
	close(stop)
	wg.Wait()
}

func TestScheduledCollectionsGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGraph()
		c := New(g.barrier, g)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		g.add(false, "garbage")
		for range 5 {
			c.Schedule()
			time.Sleep(delay / 2) // synctest's clock
		}
		if len(g.left()) != 1 {
			t.Error("collected while requests still came in")
		}
		time.Sleep(2 * delay)
		if len(g.left()) != 0 {
			t.Error("never collected")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestLabelsMakeEdges(t *testing.T) {
	labels := map[string]string{
		"containerd.io/gc.ref.content":                  "c0",
		"containerd.io/gc.ref.content.config":           "c1",
		"containerd.io/gc.ref.content/l.0":              "c2",
		"containerd.io/gc.ref.contentious":              "no",
		"containerd.io/gc.ref.snapshot.overlayfs":       "s0",
		"containerd.io/gc.ref.snapshot.native.x":        "s1",
		"containerd.io/gc.ref.snapshot.native/y":        "s2",
		"containerd.io/gc.bref.content.m":               "b0",
		"containerd.io/gc.bref.snapshot.overlayfs.k":    "b1",
		"containerd.io/gc.root":                         "x",
		"containerd.io/distribution.source.example.com": "y",
	}
	collect := func(fn func(string, map[string]string, func(Node))) (out []string) {
		fn("ns", labels, func(n Node) { out = append(out, n.Type+"="+n.Key) })
		slices.Sort(out)
		return out
	}
	if got, want := collect(References), []string{"content=c0", "content=c1", "content=c2", "snapshots/native=s1", "snapshots/native=s2", "snapshots/overlayfs=s0"}; !slices.Equal(got, want) {
		t.Errorf("References = %q, want %q", got, want)
	}
	if got, want := collect(BackReferences), []string{"content=b0", "snapshots/overlayfs=b1"}; !slices.Equal(got, want) {
		t.Errorf("BackReferences = %q, want %q", got, want)
	}
}
