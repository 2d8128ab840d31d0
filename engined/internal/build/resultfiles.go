package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/files"
	"strata/engined/internal/build/records"
)

// exportFiles hands the filesystems themselves to the client.
func (b *builder) exportFiles(ctx context.Context, o *output) (err error) {
	tree, err := b.resultTree(ctx, o)
	if err != nil {
		return err
	}
	if o.Type == OutputLocal {
		return o.Sink.Tree(ctx, tree)
	}
	w, err := o.Sink.Stream(ctx, nil)
	if err != nil {
		return err
	}
	if err := writeTree(ctx, w, tree); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

// resultTree is the result's files: of one platform, of several merged, or with a directory
// for each. What is mounted for it stays until the build ends.
func (b *builder) resultTree(ctx context.Context, o *output) (files.Tree, error) {
	apart := map[string]files.Tree{}
	var merged files.Tree
	for _, p := range b.products {
		t, err := b.productTree(ctx, o, p)
		if err != nil {
			return nil, err
		}
		if o.split {
			apart[platformDir(p.plan.Platform)] = t
			continue
		}
		if merged == nil {
			merged = t
			continue
		}
		name, err := files.Clash(merged, t)
		if err != nil {
			return nil, err
		}
		if name != "" {
			return nil, fmt.Errorf("cannot overwrite %s with that of %s when platform-split is off: %w", name, platformDir(p.plan.Platform), errdefs.ErrInvalidArgument)
		}
		merged = files.Over(merged, t)
	}
	if o.split {
		return files.Beside(apart), nil
	}
	return merged, nil
}

// productTree is the files of one platform, and the attestation of how they came to be.
func (b *builder) productTree(ctx context.Context, o *output, p *product) (files.Tree, error) {
	root, unmount, err := b.s.mountView(ctx, p.top.Snapshot)
	if err != nil {
		return nil, err
	}
	b.later(unmount)
	r, err := files.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	b.later(func() { _ = r.Close() }) // only a descriptor
	t := files.NotAfter(r, b.epoch)
	if !o.attest.wanted {
		return t, nil
	}
	subjects, err := fileSubjects(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("attest files: %w", err)
	}
	now := time.Now().UTC()
	text, err := json.MarshalIndent(b.statement(p.plan, subjects, &records.Times{Started: b.started, Finished: now}), "", "  ")
	if err != nil {
		return nil, err
	}
	name := o.attest.prefix + "provenance.json"
	if len(b.products) > 1 && !o.split {
		name = o.attest.prefix + "provenance." + platformDir(p.plan.Platform) + ".json"
	}
	if strings.ContainsRune(name, '/') {
		return nil, fmt.Errorf("attestation-prefix=%s: want the beginning of a file's name: %w", o.attest.prefix, errdefs.ErrInvalidArgument)
	}
	if _, err := t.Lstat("/" + name); err == nil {
		return nil, fmt.Errorf("the result has a file %s, which its provenance would hide; give the output an attestation-prefix: %w", name, errdefs.ErrInvalidArgument)
	}
	at := now.Truncate(time.Second)
	if !b.epoch.IsZero() {
		at = b.epoch
	}
	return files.Over(t, files.Single(name, string(text), 0o600, at)), nil
}

// fileSubjects are the regular files of a tree, as an attestation names them.
func fileSubjects(ctx context.Context, t files.Tree) ([]subject, error) {
	items, err := files.Select(t, files.Wish{Sources: []string{"/"}})
	if err != nil {
		return nil, err
	}
	out := []subject{}
	for i := range items {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !items[i].Mode.IsRegular() {
			continue
		}
		f, err := t.Open(items[i].Source)
		if err != nil {
			return nil, err
		}
		hash := sha256.New()
		_, err = io.Copy(hash, f)
		_ = f.Close() // only read
		if err != nil {
			return nil, err
		}
		out = append(out, subject{strings.TrimPrefix(items[i].Source, "/"), map[string]string{"sha256": hex.EncodeToString(hash.Sum(nil))}})
	}
	return out, nil
}

// platformDir is BuildKit's name of a platform's directory: linux_arm64.
func platformDir(p ocispec.Platform) string {
	return strings.ReplaceAll(platforms.FormatAll(p), "/", "_")
}

func writeTree(ctx context.Context, w io.Writer, t files.Tree) error {
	tw := tar.NewWriter(w)
	if err := files.WriteTar(ctx, tw, t); err != nil {
		return err
	}
	return tw.Close()
}
