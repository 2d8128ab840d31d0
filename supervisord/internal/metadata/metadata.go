package metadata

import (
	"context"
	"fmt"
	"sync"

	bolt "go.etcd.io/bbolt"

	"strata/pkg/failpoint"
	"strata/pkg/metadb"
	"strata/supervisord/internal/gc"
)

// maxBatch bounds how many changes share a commit.
const maxBatch = 256

// DB is the database. Its methods are safe for concurrent use.
type DB struct {
	bolt    *bolt.DB
	barrier *gc.Barrier

	mu      sync.Mutex
	queue   []*change
	leading bool // somebody commits the queue
}

// change is an Update that waits for its commit.
type change struct {
	fn   func(tx *Tx) error
	done chan error // buffered 1: the result
}

// Open opens or creates the database at path. Close it. The error is of class
// ErrUnavailable if another process has it open.
func Open(path string, barrier *gc.Barrier) (*DB, error) {
	b, err := metadb.Open(path)
	if err != nil {
		return nil, err
	}
	return &DB{bolt: b, barrier: barrier}, nil
}

// Close closes the database.
func (db *DB) Close() error {
	if err := db.bolt.Close(); err != nil {
		return fmt.Errorf("close database: %w", err)
	}
	return nil
}

// Barrier returns the write barrier of the garbage collector that Update enters.
func (db *DB) Barrier() *gc.Barrier { return db.barrier }

// View runs fn on the last commit. fn must not keep what it read without a copy.
func (db *DB) View(fn func(tx *bolt.Tx) error) error { return db.bolt.View(fn) }

// Tx is a change in the making.
type Tx struct {
	*bolt.Tx
	touched []gc.Node
}

// Touch tells the garbage collector, once the change is committed, that the nodes are
// new or have new edges.
func (tx *Tx) Touch(nodes ...gc.Node) { tx.touched = append(tx.touched, nodes...) }

// Update runs fn and commits what it did, durably; an error of fn undoes it. fn may run
// more than once, so it must set its results, not add to them. prepare, if not nil, runs
// once before, inside the same stay in the garbage collector's barrier.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error, prepare ...func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	leave := db.barrier.Enter()
	defer leave()
	for _, p := range prepare {
		if err := p(); err != nil {
			return err
		}
	}
	return db.Sweep(fn)
}

// Sweep is Update for the garbage collector. Preconditions: the barrier is held.
func (db *DB) Sweep(fn func(tx *Tx) error) error {
	c := &change{fn: fn, done: make(chan error, 1)}
	db.mu.Lock()
	db.queue = append(db.queue, c)
	lead := !db.leading
	db.leading = true
	db.mu.Unlock()
	if lead {
		db.lead()
	}
	return <-c.done
}

// lead commits the queue until it is empty. It runs in the goroutine of one of those who
// wait.
func (db *DB) lead() {
	for {
		db.mu.Lock()
		n := min(len(db.queue), maxBatch)
		batch := db.queue[:n:n]
		db.queue = db.queue[n:]
		db.leading = n > 0
		db.mu.Unlock()
		if n == 0 {
			return
		}
		db.commit(batch)
	}
}

// commit commits the changes together. One that fails has spoilt the transaction: it is
// told, and the others try again without it.
func (db *DB) commit(batch []*change) {
	for len(batch) > 0 {
		failed := -1
		failpoint.Pass("metadata/commit/begun")
		var touched []gc.Node
		err := db.bolt.Update(func(btx *bolt.Tx) error {
			for i, c := range batch {
				tx := &Tx{Tx: btx}
				if err := c.fn(tx); err != nil {
					failed = i
					return err
				}
				touched = append(touched, tx.touched...)
			}
			return nil
		})
		if failed >= 0 {
			batch[failed].done <- err
			batch = append(batch[:failed:failed], batch[failed+1:]...)
			continue
		}
		failpoint.Pass("metadata/commit/done")
		if err != nil {
			err = fmt.Errorf("commit to database: %w", err)
		} else {
			db.barrier.Touch(touched...)
		}
		for _, c := range batch {
			c.done <- err
		}
		return
	}
}
