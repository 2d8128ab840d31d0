package sample

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Reference is the full name of the sample image.
const Reference = "docker.io/strata/hello:latest"

// Archive returns the sample image as an OCI image layout in a tar. It is the same bytes
// each time. The error is of class ErrNotFound if this build carries none.
func Archive() (io.Reader, error) {
	if len(program) == 0 {
		return nil, fmt.Errorf("sample image %s: this binary was built without it; use make build: %w", Reference, errdefs.ErrNotFound)
	}
	zr, err := gzip.NewReader(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("read embedded program: %w", err)
	}
	hello, err := io.ReadAll(zr)
	if err != nil {
		return nil, fmt.Errorf("read embedded program: %w", err)
	}
	return layout(hello)
}

// layout makes the archive of an image that consists of program /hello.
func layout(hello []byte) (io.Reader, error) {
	var layer bytes.Buffer
	lw := tar.NewWriter(&layer)
	if err := addFile(lw, "hello", 0o755, hello); err != nil {
		return nil, err
	}
	if err := lw.Close(); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	created := time.Unix(0, 0).UTC()
	config, err := json.Marshal(ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config: ocispec.ImageConfig{
			Entrypoint:   []string{"/hello"},
			ExposedPorts: map[string]struct{}{"80/tcp": {}},
			Labels:       map[string]string{"org.opencontainers.image.title": "strata/hello"},
		},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}},
		History: []ocispec.History{{Created: &created, CreatedBy: "COPY hello /hello"}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode image configuration: %w", err)
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    descriptor(ocispec.MediaTypeImageConfig, config),
		Layers:    []ocispec.Descriptor{descriptor(ocispec.MediaTypeImageLayer, layer.Bytes())},
	})
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	target := descriptor(ocispec.MediaTypeImageManifest, manifest)
	target.Annotations = map[string]string{"io.containerd.image.name": Reference, ocispec.AnnotationRefName: "latest"}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{target},
	})
	if err != nil {
		return nil, fmt.Errorf("encode index: %w", err)
	}
	return pack(index, config, manifest, layer.Bytes())
}

func pack(index []byte, blobs ...[]byte) (io.Reader, error) {
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	if err := addFile(tw, ocispec.ImageLayoutFile, 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return nil, err
	}
	if err := addFile(tw, ocispec.ImageIndexFile, 0o644, index); err != nil {
		return nil, err
	}
	for _, b := range blobs {
		if err := addFile(tw, "blobs/sha256/"+digest.FromBytes(b).Encoded(), 0o644, b); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	return &out, nil
}

func addFile(tw *tar.Writer, name string, mode int64, data []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(0, 0)}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	if _, err := tw.Write(data); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	return nil
}

func descriptor(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}
