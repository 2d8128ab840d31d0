package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"strata/engined/internal/events"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/linux/mount"
	"strata/pkg/metadb"
)

const (
	// driverLocal is the only driver.
	driverLocal = "local"
	// anonymousLabel is how docker's clients tell volumes without a given name.
	anonymousLabel = "com.docker.volume.anonymous"
	// dataDir is the directory of a volume that containers see.
	dataDir = "_data"
	// removing begins the name of a directory whose volume is being removed. No volume's
	// name begins with a dot.
	removing = ".removing-"
)

// Volume is a named directory.
type Volume struct {
	Name       string
	Driver     string // "local"
	Mountpoint string
	Created    time.Time
	Labels     map[string]string
	Options    map[string]string
	Anonymous  bool
}

// CreateRequest asks for a volume. Without a Name one is made up, and the volume is
// anonymous.
type CreateRequest struct {
	Name    string
	Driver  string
	Options map[string]string
	Labels  map[string]string
}

// Manager owns the volumes. Its methods are safe for concurrent use.
//
// Lock order: change, then mu. change is held while something is changed, with its fsync and
// mounts; mu only for the maps, so that readers never wait for the disk.
type Manager struct {
	root    string
	records metadb.Bucket[Volume]
	users   metadb.Bucket[[]string] // container id → names of volumes
	events  events.Publisher

	change sync.Mutex

	mu       sync.Mutex
	volumes  map[string]Volume
	refs     map[string]map[string]bool // name → container ids
	acquired map[string]map[string]bool // name → container ids
}

// New opens the records in db and the directories below dataRoot/volumes, and finishes or
// undoes what a crash left half done.
func New(db *bolt.DB, dataRoot string, pub events.Publisher) (*Manager, error) {
	records, err := metadb.NewBucket[Volume](db, "volumes")
	if err != nil {
		return nil, err
	}
	users, err := metadb.NewBucket[[]string](db, "volume-users")
	if err != nil {
		return nil, err
	}
	m := &Manager{
		root: filepath.Join(dataRoot, "volumes"), records: records, users: users, events: pub,
		refs: map[string]map[string]bool{}, acquired: map[string]map[string]bool{},
	}
	if err := os.MkdirAll(m.root, 0o701); err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	if m.volumes, err = records.All(); err != nil && !errdefs.IsDataLoss(err) {
		return nil, fmt.Errorf("load volumes: %w", err)
	}
	for name, v := range m.volumes {
		v.Mountpoint = m.data(name) // the data root may have been moved
		m.volumes[name] = v
	}
	refs, err := users.All()
	if err != nil && !errdefs.IsDataLoss(err) {
		return nil, fmt.Errorf("load users of volumes: %w", err)
	}
	for containerID, names := range refs {
		for _, name := range names {
			put(m.refs, name, containerID)
		}
	}
	return m, m.recover()
}

// recover brings directories in line with the records.
func (m *Manager) recover() error {
	entries, err := os.ReadDir(m.root)
	if err != nil {
		return fmt.Errorf("recover volumes: %w", err)
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), removing)
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, "@")
		path := filepath.Join(m.root, e.Name())
		if undone, err := m.settleRemoval(name, path); undone || err != nil {
			if err != nil {
				return fmt.Errorf("finish removal of volume %q: %w", name, err)
			}
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("finish removal of volume %q: %w", name, err)
		}
	}
	for name, v := range m.volumes {
		if err := m.makeDirs(name); err != nil {
			return err
		}
		if len(v.Options) == 0 {
			continue
		}
		if on, err := mounted(v.Mountpoint); err != nil {
			return err
		} else if on { // of an earlier process: whoever refers to it may be running on it
			m.acquired[name] = maps.Clone(m.refs[name])
		}
	}
	return nil
}

// settleRemoval decides about a removal that a crash cut off after the files had been moved
// to trash. It is finished for an anonymous volume that nobody refers to, as nobody would ask
// again; else it is undone. A volume of that name that has files was made later.
func (m *Manager) settleRemoval(name, trash string) (undone bool, err error) {
	if _, ok := m.volumes[name]; !ok {
		return false, nil // the record is gone: only the files are left
	}
	if _, err := os.Lstat(m.dir(name)); !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if len(m.refs[name]) > 0 || !m.volumes[name].Anonymous {
		return true, os.Rename(trash, m.dir(name))
	}
	if err := m.records.Delete(name); err != nil {
		return false, err
	}
	delete(m.volumes, name)
	return false, nil
}

func (m *Manager) dir(name string) string  { return filepath.Join(m.root, name) }
func (m *Manager) data(name string) string { return filepath.Join(m.root, name, dataDir) }

func (m *Manager) makeDirs(name string) error {
	if err := os.MkdirAll(m.dir(name), 0o701); err != nil {
		return fmt.Errorf("make volume %q: %w", name, err)
	}
	if err := os.Mkdir(m.data(name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make volume %q: %w", name, err)
	}
	return nil
}

// Create makes a volume, or returns the one of that name (as dockerd does, whatever its
// options). Another driver is an error of class ErrConflict.
func (m *Manager) Create(ctx context.Context, r CreateRequest) (Volume, error) {
	m.change.Lock()
	defer m.change.Unlock()
	return m.createLocked(ctx, r)
}

// createLocked does the work of Create. Preconditions: change is held.
func (m *Manager) createLocked(ctx context.Context, r CreateRequest) (Volume, error) {
	v := Volume{Name: r.Name, Driver: r.Driver, Created: time.Now(), Labels: maps.Clone(r.Labels), Options: maps.Clone(r.Options)}
	if v.Driver == "" {
		v.Driver = driverLocal
	}
	if v.Name == "" {
		v.Name, v.Anonymous = identifiers.New(), true
		if v.Labels == nil {
			v.Labels = map[string]string{}
		}
		v.Labels[anonymousLabel] = ""
	}
	if err := checkName(v.Name); err != nil {
		return Volume{}, fmt.Errorf("create %s: %w", v.Name, err)
	}
	if v.Driver != driverLocal {
		return Volume{}, fmt.Errorf("create %s: error looking up volume plugin %s: plugin %q not found: %w", v.Name, v.Driver, v.Driver, errdefs.ErrNotFound)
	}
	if old, err := m.Get(v.Name); err == nil {
		return old, nil
	}
	if err := checkOptions(v.Options); err != nil {
		return Volume{}, fmt.Errorf("create %s: %w", v.Name, err)
	}
	v.Mountpoint = m.data(v.Name)
	if err := m.records.Put(v.Name, v); err != nil {
		return Volume{}, err
	}
	failpoint.Pass("volumes/create/recorded")
	if err := m.makeDirs(v.Name); err != nil {
		return Volume{}, errors.Join(err, m.records.Delete(v.Name))
	}
	m.mu.Lock()
	m.volumes[v.Name] = v
	m.mu.Unlock()
	ctxlog.From(ctx).Debug("volume created", ctxlog.Volume, v.Name)
	m.publish(v.Name, "create", nil)
	return v, nil
}

// checkName refuses what cannot be a volume's name, in dockerd's words.
func checkName(name string) error {
	if len(name) == 1 {
		return fmt.Errorf("volume name is too short, names should be at least two alphanumeric characters: %w", errdefs.ErrInvalidArgument)
	}
	if !identifiers.ValidName(name) || len(name) > 255 {
		return fmt.Errorf("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Get returns a volume, or ErrNotFound in dockerd's words.
func (m *Manager) Get(name string) (Volume, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.volumes[name]
	if !ok {
		return Volume{}, fmt.Errorf("get %s: no such volume: %w", name, errdefs.ErrNotFound)
	}
	return v, nil
}

// List returns all volumes by name.
func (m *Manager) List() []Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.volumes), func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
}

// Users returns the ids of the containers that refer to a volume.
func (m *Manager) Users(name string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := maps.Clone(m.refs[name])
	if ids == nil {
		ids = map[string]bool{}
	}
	maps.Copy(ids, m.acquired[name])
	return slices.Sorted(maps.Keys(ids))
}

// Remove deletes a volume that no container refers to. With force a missing one is no
// error.
func (m *Manager) Remove(ctx context.Context, name string, force bool) error {
	trash, err := m.detach(name)
	switch {
	case force && errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	ctxlog.From(ctx).Debug("volume removed", ctxlog.Volume, name)
	m.publish(name, "destroy", nil)
	// The name is free already; deleting the files may take long.
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// detach takes an unused volume off the list and returns where its files are.
func (m *Manager) detach(name string) (trash string, err error) {
	m.change.Lock()
	defer m.change.Unlock()
	v, err := m.Get(name)
	if err != nil {
		return "", err
	}
	if users := m.Users(name); len(users) > 0 {
		return "", fmt.Errorf("remove %s: volume is in use - [%s]: %w", name, strings.Join(users, ", "), errdefs.ErrConflict)
	}
	if err := mount.Unmount(v.Mountpoint); err != nil { // of a process that was killed
		return "", fmt.Errorf("remove %s: %w", name, err)
	}
	trash = filepath.Join(m.root, removing+name+"@"+identifiers.New()[:12])
	if err := os.Rename(m.dir(name), trash); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("remove %s: %w", name, err)
	}
	failpoint.Pass("volumes/remove/renamed")
	if err := m.records.Delete(name); err != nil {
		return "", errors.Join(err, os.Rename(trash, m.dir(name)))
	}
	// Point of no return: after a crash New deletes the files.
	failpoint.Pass("volumes/remove/forgotten")
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.volumes, name)
	return trash, nil
}

// Prune deletes the unused volumes that match and returns their names and freed bytes.
func (m *Manager) Prune(ctx context.Context, match func(Volume) bool) (names []string, reclaimed uint64, err error) {
	for _, v := range m.List() {
		if ctx.Err() != nil {
			return names, reclaimed, ctx.Err()
		}
		if len(m.Users(v.Name)) > 0 || !match(v) {
			continue
		}
		size := int64(0)
		if len(v.Options) == 0 { // what is mounted from elsewhere is not freed
			size = fileBytes(v.Mountpoint)
		}
		err = m.Remove(ctx, v.Name, false)
		if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
			continue // in use by now, or gone
		}
		if err != nil {
			return names, reclaimed, err
		}
		names = append(names, v.Name)
		reclaimed += uint64(size)
	}
	if m.events != nil {
		m.events.Publish(events.Event{Type: "volume", Action: "prune", Attributes: map[string]string{"reclaimed": strconv.FormatUint(reclaimed, 10)}})
	}
	return names, reclaimed, nil
}

// fileBytes returns the bytes of the files below dir; directories count nothing, as with
// dockerd, and hard links once.
func fileBytes(dir string) int64 {
	total := int64(0)
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error { // what cannot be read counts nothing
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // see above
		}
		info, err := e.Info()
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
			seen[st.Ino] = true
			total += info.Size()
		}
		return nil
	})
	return total
}

func (m *Manager) publish(name, action string, attributes map[string]string) {
	if m.events == nil {
		return
	}
	a := map[string]string{"driver": driverLocal}
	maps.Copy(a, attributes)
	m.events.Publish(events.Event{Type: "volume", Action: action, ActorID: name, Attributes: a})
}

func put(sets map[string]map[string]bool, key, member string) {
	if sets[key] == nil {
		sets[key] = map[string]bool{}
	}
	sets[key][member] = true
}

// drop takes member out of the set of key and reports whether it was the last.
func drop(sets map[string]map[string]bool, key, member string) (last bool) {
	if !sets[key][member] {
		return false
	}
	delete(sets[key], member)
	if len(sets[key]) > 0 {
		return false
	}
	delete(sets, key)
	return true
}
