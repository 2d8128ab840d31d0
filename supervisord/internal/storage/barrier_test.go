package storage_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/images"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/snapshots"
)

// interruption is a Part without nodes that does something when all others were
// scanned: the worst moment for the collector.
type interruption func() error

func (interruption) Owns(string) bool                                         { return false }
func (i interruption) Scan(context.Context, gc.Visitor) error                 { return i() }
func (interruption) References(context.Context, gc.Node, func(gc.Node)) error { return nil }
func (interruption) Sweep(context.Context, []gc.Node) (func(), error)         { return nil, nil }

// TestWhatIsHeldAfterTheScanStays makes each kind of edge between scan and sweep. Both
// ends were garbage, or not there, when they were scanned.
func TestWhatIsHeldAfterTheScanStays(t *testing.T) {
	child := digest.FromString("child")
	target := ocispec.Descriptor{MediaType: "m", Digest: digest.FromString("parent"), Size: 6}
	for _, tt := range []struct {
		name string
		do   func(f *fixture) error
		want []string
	}{
		{"nothing", func(*fixture) error { return nil }, nil},
		{"an image is made", func(f *fixture) error {
			_, err := f.Images.Create(f.ctx, images.Image{Name: "i", Target: target})
			return err
		}, []string{"child", "parent"}},
		{"an image is moved", func(f *fixture) error {
			_, err := f.Images.Update(f.ctx, images.Image{Name: "other", Target: target}, "target")
			return err
		}, []string{"child", "parent"}},
		{"a lease gets a resource", func(f *fixture) error {
			return f.Leases.AddResource(f.ctx, "lease", leases.Resource{ID: target.Digest.String(), Type: "content"})
		}, []string{"child", "parent"}},
		{"a label becomes a root", func(f *fixture) error {
			_, err := f.Content.UpdateLabels(f.ctx, content.Info{Digest: child, Labels: map[string]string{gc.LabelRoot: "x"}}, "labels."+gc.LabelRoot)
			return err
		}, []string{"child"}},
		{"a blob is committed under a lease", func(f *fixture) error {
			f.blob(namespaces.WithLease(f.ctx, "lease"), []byte("new"), map[string]string{"containerd.io/gc.ref.content": child.String()})
			return nil
		}, []string{"child", "new"}},
		{"a blob that exists is committed again under a lease", func(f *fixture) error {
			f.blob(namespaces.WithLease(f.ctx, "lease"), []byte("parent"), nil)
			return nil
		}, []string{"child", "parent"}},
		{"a container names a snapshot", func(f *fixture) error {
			_, err := f.Containers.Create(f.ctx, containers.Container{ID: "c", RuntimeName: "r", Spec: &anypb.Any{}, Snapshotter: "overlayfs", SnapshotKey: "top"})
			return err
		}, []string{"base", "top"}},
		{"a snapshot is prepared under a lease", func(f *fixture) error {
			_, err := f.overlay().Prepare(namespaces.WithLease(f.ctx, "lease"), "active", "base", nil)
			return err
		}, []string{"active", "base"}},
		{"a snapshot is committed under a lease", func(f *fixture) error {
			return f.overlay().Commit(namespaces.WithLease(f.ctx, "lease"), "committed", "spare", nil)
		}, []string{"base", "committed"}},
		{"a snapshot's label becomes a root", func(f *fixture) error {
			_, err := f.overlay().Update(f.ctx, snapshots.Info{Name: "base", Labels: map[string]string{gc.LabelRoot: "x"}})
			return err
		}, []string{"base"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := open(t)
			f.blob(f.ctx, []byte("child"), nil)
			f.blob(f.ctx, []byte("parent"), map[string]string{"containerd.io/gc.ref.content": child.String()})
			_, err := f.Images.Create(f.ctx, images.Image{Name: "other", Target: ocispec.Descriptor{MediaType: "m", Size: 1, Digest: digest.FromString("elsewhere")}})
			must(t, err)
			_, err = f.Leases.Create(f.ctx, "lease", nil)
			must(t, err)
			for _, l := range [][2]string{{"base", ""}, {"top", "base"}} {
				_, err := f.overlay().Prepare(f.ctx, "key", l[1], nil)
				must(t, err)
				must(t, f.overlay().Commit(f.ctx, l[0], "key", nil))
			}
			_, err = f.overlay().Prepare(f.ctx, "spare", "base", nil)
			must(t, err)
			ran := errors.New("never ran")
			_, err = f.CollectorWith(interruption(func() error { ran = tt.do(f); return nil })).Collect(f.ctx)
			must(t, errors.Join(err, ran))
			names := map[digest.Digest]string{child: "child", target.Digest: "parent", digest.FromString("new"): "new"}
			if got := f.left(names); !slices.Equal(got, tt.want) {
				t.Errorf("left %q, want %q", got, tt.want)
			}
		})
	}
}
