package content

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strata/pkg/failpoint"
)

const (
	// saveEvery is how much is written between two records of the hash, in bytes: what a
	// writer resumed after a crash reads again at most.
	saveEvery = 64 << 20
	// parallelFrom is the size of a write from which hashing beside writing pays.
	parallelFrom = 64 << 10
)

// writer is the only writer of an ingest. Its methods are safe for concurrent use.
type writer struct {
	store *Disk
	dir   string
	in    ingest

	mu     sync.Mutex
	file   *os.File // nil once closed or committed
	hash   hash.Hash
	offset int64
	saved  int64 // offset of the recorded hash
	update time.Time
}

// savedHash is the file hash of an ingest.
type savedHash struct {
	Algorithm digest.Algorithm `json:"algorithm"`
	Offset    int64            `json:"offset"`
	State     []byte           `json:"state"`
}

func newWriter(s *Disk, dir string, in ingest) (*writer, error) {
	f, err := os.OpenFile(filepath.Join(dir, dataName), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	w := &writer{store: s, dir: dir, in: in, file: f, update: time.Now().UTC()}
	if err := w.resume(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return w, nil
}

func (w *writer) algorithm() digest.Algorithm {
	if w.in.Expected != "" {
		return w.in.Expected.Algorithm()
	}
	return digest.Canonical
}

// resume brings the hash to the end of the data.
func (w *writer) resume() error {
	end, err := w.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	w.hash = w.algorithm().Hash()
	if end == 0 {
		return nil
	}
	var at int64
	var saved savedHash
	if data, err := os.ReadFile(filepath.Join(w.dir, hashName)); err == nil && json.Unmarshal(data, &saved) == nil &&
		saved.Algorithm == w.algorithm() && saved.Offset <= end {
		if h, ok := w.hash.(encoding.BinaryUnmarshaler); ok && h.UnmarshalBinary(saved.State) == nil {
			at = saved.Offset
		} else {
			w.hash.Reset()
		}
	}
	if _, err := io.Copy(w.hash, io.NewSectionReader(w.file, at, end-at)); err != nil {
		return err
	}
	w.offset, w.saved = end, at
	return nil
}

// save records the hash. It is a shortcut only: an error is not one of the caller's.
func (w *writer) save() {
	h, ok := w.hash.(encoding.BinaryMarshaler)
	if !ok {
		return
	}
	state, err := h.MarshalBinary()
	if err != nil {
		return
	}
	data, err := json.Marshal(savedHash{w.algorithm(), w.offset, state})
	if err != nil {
		return
	}
	path := filepath.Join(w.dir, hashName)
	if os.WriteFile(path+".new", data, 0o600) == nil && os.Rename(path+".new", path) == nil {
		w.saved = w.offset
	}
}

var errWriterClosed = fmt.Errorf("writer is closed: %w", errdefs.ErrFailedPrecondition)

// Write appends p. It hashes beside the system call.
func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return 0, errWriterClosed
	}
	var n int
	var err error
	if len(p) >= parallelFrom {
		var wg sync.WaitGroup
		wg.Go(func() { w.hash.Write(p) })
		n, err = w.file.WriteAt(p, w.offset)
		wg.Wait()
	} else {
		n, err = w.file.WriteAt(p, w.offset)
		w.hash.Write(p)
	}
	if err != nil {
		// What was hashed is not what is there: back to where they agreed.
		err = errors.Join(diskFull(err), w.truncate(w.offset))
		return 0, fmt.Errorf("write ingest %q: %w", w.in.Ref, err)
	}
	w.offset += int64(n)
	w.update = time.Now().UTC()
	if w.offset-w.saved >= saveEvery {
		w.save()
	}
	return n, nil
}

// diskFull attaches the class to errors of a full disk.
func diskFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}

// Digest returns the digest of what has been written so far.
func (w *writer) Digest() digest.Digest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return digest.NewDigest(w.algorithm(), w.hash)
}

// Status returns where the ingest stands.
func (w *writer) Status() (Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Status{
		Ref: w.in.Ref, Offset: w.offset, Total: w.in.Total, Expected: w.in.Expected,
		StartedAt: w.in.StartedAt, UpdatedAt: w.update,
	}, nil
}

// Truncate cuts the ingest to size bytes.
func (w *writer) Truncate(size int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return errWriterClosed
	}
	if size < 0 || size > w.offset {
		return fmt.Errorf("truncate ingest %q of %d bytes to %d: %w", w.in.Ref, w.offset, size, errdefs.ErrOutOfRange)
	}
	if err := w.truncate(size); err != nil {
		return fmt.Errorf("truncate ingest %q: %w", w.in.Ref, err)
	}
	return nil
}

func (w *writer) truncate(size int64) error {
	if err := w.file.Truncate(size); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(w.dir, hashName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	w.offset, w.saved = 0, 0
	return w.resume()
}

// Close lets go of the ref and keeps the ingest.
func (w *writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	w.save()
	return w.closeLocked()
}

func (w *writer) closeLocked() error {
	err := w.file.Close()
	w.file = nil
	w.store.unlock(w.dir)
	if err != nil {
		return fmt.Errorf("close ingest %q: %w", w.in.Ref, err)
	}
	return nil
}

// Commit makes the ingest a blob.
func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return errWriterClosed
	}
	dgst, err := w.verify(size, expected)
	if err != nil {
		if errdefs.IsFailedPrecondition(err) {
			err = errors.Join(err, w.store.discard(w.dir), w.closeLocked())
		}
		return fmt.Errorf("commit ingest %q: %w", w.in.Ref, err)
	}
	if err := w.file.Chmod(0o444); err != nil {
		return fmt.Errorf("commit ingest %q: %w", w.in.Ref, err)
	}
	target := w.store.blob(dgst)
	if _, err := os.Stat(target); err != nil {
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("commit ingest %q: %w", w.in.Ref, diskFull(err))
		}
	}
	failpoint.Pass("content/commit/synced")
	placed := false
	err = w.store.link(ctx, dgst, linkArgs{
		ref: w.in.Ref, size: w.offset, labels: labels, // the point of no return is its commit
		place: func() error {
			placed = true
			return w.place(target)
		},
	})
	if placed {
		// Whatever happened, the data may be a blob now and must not be written again.
		err = errors.Join(err, w.store.discard(w.dir), w.closeLocked())
	}
	if err != nil {
		return fmt.Errorf("commit ingest %q: %w", w.in.Ref, err)
	}
	return nil
}

// verify compares the ingest with what it should be.
func (w *writer) verify(size int64, expected digest.Digest) (digest.Digest, error) {
	if size > 0 && size != w.offset {
		return "", fmt.Errorf("size is %d, expected %d: %w", w.offset, size, errdefs.ErrFailedPrecondition)
	}
	if fi, err := w.file.Stat(); err != nil || fi.Size() != w.offset {
		return "", fmt.Errorf("data changed behind the writer: %w", errors.Join(err, errdefs.ErrFailedPrecondition))
	}
	dgst := digest.NewDigest(w.algorithm(), w.hash)
	if expected == "" {
		expected = w.in.Expected
	}
	if expected == "" {
		return dgst, nil
	}
	if err := check(expected); err != nil {
		return "", err
	}
	if expected.Algorithm() != dgst.Algorithm() {
		var err error
		if dgst, err = expected.Algorithm().FromReader(io.NewSectionReader(w.file, 0, w.offset)); err != nil {
			return "", err
		}
	}
	if dgst != expected {
		return "", fmt.Errorf("digest is %s, expected %s: %w", dgst, expected, errdefs.ErrFailedPrecondition)
	}
	return dgst, nil
}

// place moves the data to where blobs are, durably. A blob that is there already has
// the same bytes.
func (w *writer) place(target string) error {
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o711); err != nil {
		return diskFull(err)
	}
	err := os.Rename(filepath.Join(w.dir, dataName), target)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("the ingest was aborted: %w", errdefs.ErrNotFound)
	case err != nil:
		return diskFull(err)
	}
	failpoint.Pass("content/commit/placed")
	d, err := os.Open(filepath.Dir(target))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
