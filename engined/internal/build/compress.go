package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/engined/internal/build/records"
	packing "strata/pkg/compression"
	"strata/pkg/identifiers"
	"strata/pkg/manifest"
)

// layerTypes are the media types of layers by compression: OCI's and Docker's.
var layerTypes = map[string][2]string{
	"gzip":         {ocispec.MediaTypeImageLayerGzip, manifest.DockerLayerGzip},
	"zstd":         {ocispec.MediaTypeImageLayerZstd, manifest.DockerLayerZstd},
	"uncompressed": {ocispec.MediaTypeImageLayer, manifest.DockerLayer},
}

// compressed returns the layers as o wants them. Those of the base stay as they are,
// unless it is forced.
func (b *builder) compressed(ctx context.Context, o *output, p *product, layers []records.Layer) ([]ocispec.Descriptor, error) {
	base := 0
	for v := p.plan.Target; v != nil; v = v.Parent {
		if v.Image != nil {
			base = len(v.Image.Layers)
		}
	}
	var out []ocispec.Descriptor
	for i, l := range layers {
		d := l.Descriptor
		kind := kindOf(d.MediaType)
		if kind == "" {
			out = append(out, d) // foreign: nobody here has its bytes
			continue
		}
		if kind != o.compression.kind && (i >= base || o.compression.force) || o.compression.level != nil && (i >= base || o.compression.force) {
			var err error
			if d, err = b.recompress(ctx, l, o.compression); err != nil {
				return nil, err
			}
			kind = o.compression.kind
		}
		d.MediaType = layerTypes[kind][0]
		if o.docker {
			d.MediaType = layerTypes[kind][1]
		}
		out = append(out, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	}
	return out, nil
}

func kindOf(mediaType string) string {
	for kind, types := range layerTypes {
		if mediaType == types[0] || mediaType == types[1] {
			return kind
		}
	}
	return ""
}

// labelCompressed, on a layer's blob, names the same layer compressed in another way.
const labelCompressed = "strata.build/compressed."

// recompress writes a layer in another compression; what was written once is found again
// by a label.
func (b *builder) recompress(ctx context.Context, l records.Layer, c compression) (ocispec.Descriptor, error) {
	label := labelCompressed + c.kind + ".default"
	if c.level != nil {
		label = labelCompressed + c.kind + "." + strconv.Itoa(*c.level)
	}
	info, err := b.s.sup.ContentInfo(ctx, l.Descriptor.Digest)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("recompress layer: %w", err)
	}
	if d, err := digest.Parse(info.Labels[label]); err == nil {
		have, err := b.s.sup.ContentInfo(ctx, d)
		if err == nil {
			return ocispec.Descriptor{Digest: d, Size: have.Size}, nil
		}
		if !errdefs.IsNotFound(err) {
			return ocispec.Descriptor{}, err
		}
	}
	packed, packer := io.Pipe()
	done := make(chan error, 1) // one result
	go func() {
		err := b.pack(ctx, packer, l.Descriptor, c)
		packer.CloseWithError(err) // never fails
		done <- err
	}()
	desc, err := b.s.sup.WriteContent(ctx, "compress-"+identifiers.Short(identifiers.New()), packed, "", map[string]string{manifest.LabelUncompressed: l.DiffID.String()})
	packed.CloseWithError(io.ErrClosedPipe) // never fails
	if perr := <-done; perr != nil && !errors.Is(perr, io.ErrClosedPipe) {
		err = perr
	}
	if err != nil {
		return desc, fmt.Errorf("recompress layer %s: %w", l.Descriptor.Digest, err)
	}
	return desc, b.s.sup.LabelContent(ctx, l.Descriptor.Digest, map[string]string{label: desc.Digest.String()})
}

// pack writes the content of blob d to w, compressed in another way.
func (b *builder) pack(ctx context.Context, w io.Writer, d ocispec.Descriptor, c compression) error {
	raw, feeder := io.Pipe()
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		_, err := b.s.sup.OpenContent(ctx, d).WriteTo(feeder)
		feeder.CloseWithError(err) // never fails
	}()
	defer func() { raw.CloseWithError(io.ErrClosedPipe); <-fed }()
	plain, err := packing.NewReader(raw)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }() // only read
	out, err := packerOf(w, c)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, plain); err != nil {
		return errors.Join(err, out.Close())
	}
	return out.Close()
}

func packerOf(w io.Writer, c compression) (io.WriteCloser, error) {
	level := packing.DefaultLevel
	if c.level != nil {
		level = *c.level
	}
	kind := packing.Kind(c.kind)
	if c.kind == "uncompressed" {
		kind = packing.None
	}
	return packing.NewWriter(w, kind, level)
}
