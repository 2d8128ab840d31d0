package snapshots

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

const (
	recordName = "record.json"
	trash      = "rm-"
)

// record is a snapshot. Once it is in the index it never changes: a change replaces it.
type record struct {
	ID        uint64            `json:"id"`
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Parent    string            `json:"parent,omitempty"`
	Kind      Kind              `json:"kind"`
	Labels    map[string]string `json:"labels,omitempty"`
	Lease     string            `json:"lease,omitempty"` // that it was made under
	CreatedAt time.Time         `json:"created"`
	UpdatedAt time.Time         `json:"updated"`
	Usage     Usage             `json:"usage"`          // of a committed snapshot
	Boot      string            `json:"boot,omitempty"` // until its files are durable
}

func (r *record) info() Info {
	return Info{
		Kind: r.Kind, Name: r.Name, Parent: r.Parent, Labels: maps.Clone(r.Labels),
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
}

// dir returns the directory of a snapshot.
func (s *Store) dir(id uint64) string { return filepath.Join(s.root, strconv.FormatUint(id, 10)) }

// write stores the record beside its files, atomically.
func (s *Store) write(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of snapshot %q: %w", r.Name, err)
	}
	path := filepath.Join(s.dir(r.ID), recordName)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("store snapshot %q: %w", r.Name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("store snapshot %q: %w", r.Name, err)
	}
	return nil
}

// read returns the record in directory id, of class ErrDataLoss if it is not whole.
func (s *Store) read(id uint64) (*record, error) {
	path := filepath.Join(s.dir(id), recordName)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("decode %q: %w: %w", path, err, errdefs.ErrDataLoss)
	}
	if r.ID != id || r.Name == "" || r.Namespace == "" || r.Kind == KindUnknown {
		return nil, fmt.Errorf("record %q is not of this snapshot: %w", path, errdefs.ErrDataLoss)
	}
	return &r, nil
}

// bootID names this boot of the kernel (proc(5), random/boot_id).
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
