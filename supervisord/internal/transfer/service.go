package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/namespaces"
	"strata/pkg/registry"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/diff"
	"strata/supervisord/internal/images"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/snapshots"
)

// Stores are what a Service works on; all of them are scoped by the namespace of the
// context.
type Stores struct {
	Content content.Store
	Images  images.Store
	Leases  leases.Manager
	Diff    diff.Service
	// Snapshotters by name, "overlayfs"; DefaultSnapshotter is one of them.
	Snapshotters       map[string]snapshots.Snapshotter
	DefaultSnapshotter string
}

// Service moves images. It is safe for concurrent use and owns no goroutine beyond its
// calls.
type Service struct {
	stores   Stores
	registry *registry.Client

	blobs  flights // by namespace and digest
	chains flights // by namespace, snapshotter and chain id

	mu     sync.Mutex
	leases map[string]int // users of a lease in this process
}

// New returns a Service.
func New(stores Stores, client *registry.Client) *Service {
	return &Service{stores: stores, registry: client, leases: map[string]int{}}
}

// Progress is one step of a transfer. Event is one of containerd's words: "waiting",
// "downloading", "uploading", "extracting", "extracted", "complete", "already exists",
// "saved", … Without a Name it is a line about the whole transfer.
type Progress struct {
	Event    string
	Name     string
	Parents  []string
	Progress int64 // bytes
	Total    int64 // bytes
	Desc     *ocispec.Descriptor
}

// Report hears of progress; it is called from many goroutines, one at a time, and must not
// block for long.
type Report func(Progress)

// serial returns r made safe for concurrent use; nil becomes silence.
func serial(r Report) Report {
	if r == nil {
		return func(Progress) {}
	}
	var mu sync.Mutex
	return func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		r(p)
	}
}

// Unpack asks for the layers of a platform's image to become snapshots.
type Unpack struct {
	Platform    *ocispec.Platform // nil: this machine's
	Snapshotter string            // "": the default
}

// Snapshotter returns the snapshotter name, or the default one for "".
func (s *Service) snapshotter(name string) (snapshots.Snapshotter, string, error) {
	if name == "" {
		name = s.stores.DefaultSnapshotter
	}
	sn, ok := s.stores.Snapshotters[name]
	if !ok {
		return nil, "", fmt.Errorf("snapshotter %q: %w", name, errdefs.ErrNotFound)
	}
	return sn, name, nil
}

// LabelTransfer says on a lease what transfer took it: a verb and what it is about.
const LabelTransfer = "strata.io/transfer"

// leaseLife is how long an interrupted transfer stays resumable; leaseRenew is the age
// from which a new lease is taken instead of one found.
const (
	leaseLife  = 24 * time.Hour
	leaseRenew = 12 * time.Hour
)

// lease puts ctx under the lease of the transfer called what. The lease has a name of its
// own, so that the next attempt finds what this one leaves. done(nil) ends it; with an
// error it stays until it expires. A lease that the caller brought gets root when done.
func (s *Service) lease(ctx context.Context, what string) (_ context.Context, done func(err error, root *ocispec.Descriptor) error, _ error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, nil, err
	}
	callers, hasCaller := namespaces.Lease(ctx)
	sum := sha256.Sum256([]byte(what))
	leaseID := "transfer-" + hex.EncodeToString(sum[:12])
	if leaseID, err = s.takeLease(ctx, ns, leaseID, what); err != nil {
		return nil, nil, fmt.Errorf("take lease for %s: %w", what, err)
	}
	done = func(err error, root *ocispec.Descriptor) error {
		cctx, cancel := cleanup.Context(ctx)
		defer cancel()
		if hasCaller && root != nil {
			aerr := s.stores.Leases.AddResource(cctx, callers, leases.Resource{ID: root.Digest.String(), Type: "content"})
			if aerr != nil && !errdefs.IsAlreadyExists(aerr) {
				err = errors.Join(err, fmt.Errorf("add image to lease %q: %w", callers, aerr))
			}
		}
		if last := s.dropLease(ns, leaseID); last && err == nil {
			if derr := s.stores.Leases.Delete(cctx, leaseID, false); derr != nil && !errdefs.IsNotFound(derr) {
				return fmt.Errorf("end lease %q: %w", leaseID, derr)
			}
		}
		return err
	}
	return namespaces.WithLease(ctx, leaseID), done, nil
}

func (s *Service) takeLease(ctx context.Context, ns, leaseID, what string) (string, error) {
	s.mu.Lock()
	s.leases[ns+"/"+leaseID]++ // before Create, so that nobody ends what we are about to find
	s.mu.Unlock()
	now := time.Now()
	labels := map[string]string{
		"containerd.io/gc.expire": now.Add(leaseLife).UTC().Format(time.RFC3339),
		LabelTransfer:             what,
	}
	_, err := s.stores.Leases.Create(ctx, leaseID, labels)
	if errdefs.IsAlreadyExists(err) {
		var found []leases.Lease
		found, err = s.stores.Leases.List(ctx, "id=="+leaseID)
		if err == nil && (len(found) == 0 || now.Sub(found[0].CreatedAt) > leaseRenew) {
			s.dropLease(ns, leaseID)
			return s.takeLease(ctx, ns, fmt.Sprintf("%s-%d", leaseID, now.Unix()/int64(leaseRenew.Seconds())), what)
		}
	}
	if err != nil {
		s.dropLease(ns, leaseID)
		return "", err
	}
	return leaseID, nil
}

// dropLease reports whether nobody else in this process uses the lease.
func (s *Service) dropLease(ns, leaseID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := ns + "/" + leaseID
	if s.leases[key]--; s.leases[key] > 0 {
		return false
	}
	delete(s.leases, key)
	return true
}

// save points name at target.
func (s *Service) save(ctx context.Context, name string, target ocispec.Descriptor, labels map[string]string) (images.Image, error) {
	target = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size, Annotations: target.Annotations}
	img := images.Image{Name: name, Target: target, Labels: labels}
	for {
		got, err := s.stores.Images.Create(ctx, img)
		if errdefs.IsAlreadyExists(err) {
			paths := []string{"target"}
			for k := range labels {
				paths = append(paths, "labels."+k)
			}
			if got, err = s.stores.Images.Update(ctx, img, paths...); errdefs.IsNotFound(err) {
				continue // removed in between
			}
		}
		if err != nil {
			return images.Image{}, fmt.Errorf("save image %q: %w", name, err)
		}
		failpoint.Pass("transfer/save/saved")
		ctxlog.From(ctx).Debug("image saved", ctxlog.Image, name, ctxlog.Digest, target.Digest)
		return got, nil
	}
}

// Tag makes dst a name for what src names.
func (s *Service) Tag(ctx context.Context, src, dst string, labels map[string]string) (images.Image, error) {
	img, err := s.find(ctx, src)
	if err != nil {
		return images.Image{}, err
	}
	return s.save(ctx, dst, img.Target, labels)
}

// find returns the image called name; a bare digest is an image without a name.
func (s *Service) find(ctx context.Context, name string) (images.Image, error) {
	img, err := s.stores.Images.Get(ctx, name)
	if errdefs.IsNotFound(err) && strings.HasPrefix(name, "sha256:") {
		return s.findDigest(ctx, name)
	}
	return img, err
}

// classify gives the errors of a full disk their class.
func classify(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}
