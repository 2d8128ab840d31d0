package transfer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/cleanup"
	"strata/pkg/failpoint"
	"strata/pkg/manifest"
	"strata/pkg/namespaces"
	"strata/supervisord/internal/content"
	"strata/supervisord/internal/leases"
	"strata/supervisord/internal/snapshots"
)

// layers is what unpack turns into snapshots.
type layers struct {
	descs       []ocispec.Descriptor
	config      ocispec.Image
	snapshotter string
	parents     []string
	// ready waits until layer i is in the content store; nil means that all are.
	ready func(ctx context.Context, i int) error
}

// Unpack makes the snapshots of the image target for the platform of u: one for each
// layer, named by its chain id. What is there is not made again. It labels the image's
// configuration so that the collector keeps them. Errors: ErrNotFound without the content
// or without an image for the platform, ErrDataLoss for a layer whose content is not what
// the configuration says.
func (s *Service) Unpack(ctx context.Context, target ocispec.Descriptor, u Unpack, report Report) (err error) {
	ctx, done, err := s.lease(ctx, "unpack "+target.Digest.String())
	if err != nil {
		return err
	}
	defer func() { err = done(err, nil) }()
	_, name, err := s.snapshotter(u.Snapshotter)
	if err != nil {
		return err
	}
	m, cfg, err := s.resolveImage(ctx, target, []ocispec.Platform{u.platform()}, 0)
	if err != nil {
		return err
	}
	if err := s.unpack(ctx, layers{descs: m.Layers, config: cfg, snapshotter: name}, serial(report)); err != nil {
		return err
	}
	chain := manifest.ChainIDs(cfg.RootFS.DiffIDs)
	if len(chain) == 0 {
		return nil
	}
	_, err = s.relabel(ctx, m.Config.Digest, map[string]string{manifest.SnapshotLabel(name): chain[len(chain)-1].String()})
	return err
}

// resolveImage walks from target to the manifest for wanted and its configuration.
func (s *Service) resolveImage(ctx context.Context, target ocispec.Descriptor, wanted []ocispec.Platform, depth int) (manifest.Document, ocispec.Image, error) {
	raw, there, err := s.readDocument(ctx, target)
	if err == nil && !there {
		err = fmt.Errorf("content %s: %w", target.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return manifest.Document{}, ocispec.Image{}, err
	}
	doc, err := manifest.Parse(target.MediaType, raw)
	if err != nil {
		return doc, ocispec.Image{}, err
	}
	if doc.IsIndex() {
		chosen := manifest.Select(doc.Manifests, wanted)
		if len(chosen) == 0 || depth > maxDepth {
			return doc, ocispec.Image{}, fmt.Errorf("image %s for platform %s: %w", target.Digest, formatPlatforms(wanted), errdefs.ErrNotFound)
		}
		return s.resolveImage(ctx, chosen[0], wanted, depth+1)
	}
	raw, there, err = s.readDocument(ctx, doc.Config)
	if err == nil && !there {
		err = fmt.Errorf("image config %s: %w", doc.Config.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return doc, ocispec.Image{}, err
	}
	cfg, err := manifest.ParseConfig(raw)
	if err == nil && !manifest.Runs(cfg.Platform, wanted) {
		err = fmt.Errorf("image %s for platform %s: %w", target.Digest, formatPlatforms(wanted), errdefs.ErrNotFound)
	}
	return doc, cfg, err
}

// unpack makes what is missing of the chain, bottom up.
func (s *Service) unpack(ctx context.Context, l layers, report Report) error {
	sn, name, err := s.snapshotter(l.snapshotter)
	if err != nil {
		return err
	}
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return err
	}
	diffIDs := l.config.RootFS.DiffIDs
	if len(diffIDs) != len(l.descs) {
		return fmt.Errorf("image config names %d layers, its manifest %d: %w", len(diffIDs), len(l.descs), errdefs.ErrInvalidArgument)
	}
	chain := manifest.ChainIDs(diffIDs)
	first, err := firstMissing(ctx, sn, chain)
	if err != nil {
		return err
	}
	for i := range first {
		l.step(report, "extracted", i)
	}
	for i := first; i < len(chain); i++ {
		if l.ready != nil {
			if err := l.ready(ctx, i); err != nil {
				return err
			}
		}
		parent := ""
		if i > 0 {
			parent = chain[i-1].String()
		}
		l.step(report, "extracting", i)
		worked, err := s.chains.do(ctx, ns+"/"+name+"/"+chain[i].String(), func(int64) {}, func(ctx context.Context, _ func(int64)) error {
			return s.extract(ctx, sn, extraction{desc: l.descs[i], diffID: diffIDs[i], chainID: chain[i], parent: parent})
		})
		if err != nil {
			return fmt.Errorf("unpack layer %s: %w", l.descs[i].Digest, err)
		}
		if leaseID, ok := namespaces.Lease(ctx); ok && !worked { // it was made under somebody else's
			err := s.stores.Leases.AddResource(ctx, leaseID, leases.Resource{ID: chain[i].String(), Type: "snapshots/" + name})
			if err != nil && !errdefs.IsAlreadyExists(err) {
				return fmt.Errorf("hold snapshot %s: %w", chain[i], err)
			}
		}
		l.step(report, "extracted", i)
	}
	return nil
}

func (l layers) step(report Report, event string, i int) {
	d := l.descs[i]
	n := int64(0)
	if event == "extracted" {
		n = d.Size
	}
	report(Progress{Event: event, Name: manifest.RefKey(d), Parents: l.parents, Progress: n, Total: d.Size, Desc: &d})
}

// firstMissing returns the index of the lowest layer without a snapshot. Snapshots need
// their parents, so the search goes from the top.
func firstMissing(ctx context.Context, sn snapshots.Snapshotter, chain []digest.Digest) (int, error) {
	for i, v := range slices.Backward(chain) {
		_, err := sn.Stat(ctx, v.String())
		if err == nil {
			return i + 1, nil
		}
		if !errdefs.IsNotFound(err) {
			return 0, fmt.Errorf("stat snapshot %s: %w", v, err)
		}
	}
	return 0, nil
}

// extraction is one layer on its way to a snapshot.
type extraction struct {
	desc            ocispec.Descriptor
	diffID, chainID digest.Digest
	parent          string
}

// extract makes one snapshot. Others (clients that unpack by themselves) may do the same;
// who commits first wins.
func (s *Service) extract(ctx context.Context, sn snapshots.Snapshotter, x extraction) error {
	if _, err := sn.Stat(ctx, x.chainID.String()); err == nil {
		return nil
	}
	var salt [3]byte
	_, _ = rand.Read(salt[:])
	key := fmt.Sprintf("extract-%d-%s %s", time.Now().Nanosecond(), hex.EncodeToString(salt[:]), x.chainID)
	mounts, err := sn.Prepare(ctx, key, x.parent, nil)
	if err != nil {
		return fmt.Errorf("prepare snapshot: %w", err)
	}
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(func() {
		cctx, cancel := cleanup.Context(ctx)
		defer cancel()
		_ = sn.Remove(cctx, key) // whatever stays has no name and goes with the lease
	})
	applied, err := s.stores.Diff.Apply(ctx, x.desc, mounts)
	if err != nil {
		return classify(fmt.Errorf("extract: %w", err))
	}
	failpoint.Pass("transfer/extract/applied")
	if applied.Digest != x.diffID {
		return fmt.Errorf("layer %s unpacks to %s, its image says %s: %w", x.desc.Digest, applied.Digest, x.diffID, errdefs.ErrDataLoss)
	}
	err = sn.Commit(ctx, x.chainID.String(), key, nil)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("commit snapshot %s: %w", x.chainID, err)
	}
	if err == nil {
		undo.Release()
	}
	info := content.Info{Digest: x.desc.Digest, Labels: map[string]string{manifest.LabelUncompressed: x.diffID.String()}}
	if _, err := s.stores.Content.UpdateLabels(ctx, info, "labels."+manifest.LabelUncompressed); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("label layer: %w", err)
	}
	return nil
}
