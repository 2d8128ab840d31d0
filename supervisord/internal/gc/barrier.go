package gc

import "sync"

// Barrier lets writers and the collector run side by side. The zero value is ready. Lock
// order: the barrier comes before every lock of a store and every transaction.
type Barrier struct {
	world sync.RWMutex // writers share it, the sweep has it alone

	mu      sync.Mutex
	marking bool
	touched map[Node]struct{} // since the mark began
}

// Enter begins a change. The caller ends it with the returned function and must not enter
// again before that.
func (b *Barrier) Enter() (leave func()) {
	b.world.RLock()
	return b.world.RUnlock
}

// Touch says that the nodes were created, or that an edge to or from them was.
// Preconditions: the caller is inside the barrier.
func (b *Barrier) Touch(nodes ...Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.marking {
		return
	}
	for _, n := range nodes {
		b.touched[n] = struct{}{}
	}
}

// begin starts recording. It waits for changes that are under way, so that each either
// is seen by the mark or touches.
func (b *Barrier) begin() {
	b.world.Lock()
	defer b.world.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marking = true
	b.touched = map[Node]struct{}{}
}

// end stops recording and returns what was touched. Preconditions: world is held.
func (b *Barrier) endLocked() []Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	nodes := make([]Node, 0, len(b.touched))
	for n := range b.touched {
		nodes = append(nodes, n)
	}
	b.marking, b.touched = false, nil
	return nodes
}
