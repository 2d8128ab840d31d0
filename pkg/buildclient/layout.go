package buildclient

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/atomicfile"
	"strata/pkg/buildkit"
)

// defaultTag is what is meant in an OCI layout when nothing is said.
const defaultTag = "latest"

// FindInLayout returns what a tag means in the OCI layout at dir. "" is the only thing in it,
// or what is called latest.
func FindInLayout(dir, tag string) (digest.Digest, error) {
	index, err := readIndex(dir)
	if err != nil {
		return "", err
	}
	if tag == "" && len(index.Manifests) == 1 {
		return index.Manifests[0].Digest, nil
	}
	if tag == "" {
		tag = defaultTag
	}
	for _, d := range index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == tag {
			return d.Digest, nil
		}
	}
	return "", fmt.Errorf("%s: nothing in it is called %q", dir, tag)
}

func readIndex(dir string) (ocispec.Index, error) {
	var index ocispec.Index
	raw, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return index, fmt.Errorf("%s: %s: %w", dir, ocispec.ImageIndexFile, err)
	}
	return index, nil
}

// annotationImageName is where containerd's tools look for the whole name of an image.
const annotationImageName = "io.containerd.image.name"

// tagInLayout gives a descriptor a tag, and the name of an image ("" for none), in the OCI
// layout at dir, which is made one if it is none.
func tagInLayout(dir, name, tag string, d ocispec.Descriptor) error {
	index, err := readIndex(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if tag == "" {
		tag = defaultTag
	}
	names := map[string]string{ocispec.AnnotationRefName: tag}
	if name != "" {
		names[annotationImageName] = name
	}
	index.Versioned, index.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageIndex
	index.Manifests = slices.DeleteFunc(index.Manifests, func(o ocispec.Descriptor) bool {
		return o.Annotations[ocispec.AnnotationRefName] == tag && o.Annotations[annotationImageName] == name
	})
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	maps.Copy(d.Annotations, names)
	index.Manifests = append(index.Manifests, d)
	for name, v := range map[string]any{ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, ocispec.ImageIndexFile: index} {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := atomicfile.Write(filepath.Join(dir, name), raw, 0o644, atomicfile.Durable); err != nil {
			return err
		}
	}
	return nil
}

// stores are the OCI layouts that the session serves, by the names that the daemon knows.
func (b *Build) stores() map[string]string {
	out := map[string]string{}
	for name, dir := range b.Layouts {
		out["oci:"+name] = dir
	}
	for _, o := range b.Outputs {
		if o.Layout != "" {
			out[buildkit.StoreExport] = o.Layout
		}
	}
	for list, caches := range map[string][]Cache{cacheFrom: b.CacheFrom, cacheTo: b.CacheTo} {
		for i, c := range caches {
			if c.Dir != "" {
				out["local:"+storeName(list, i)] = c.Dir
			}
		}
	}
	return out
}

// Lists of caches, in the names of their stores.
const cacheFrom, cacheTo = "cache-from", "cache-to"

func storeName(list string, i int) string { return fmt.Sprint(list, "-", i) }

// nameLayout writes into the index of an exported layout what the daemon has answered.
func (b *Build) nameLayout(response map[string]string) error {
	for _, o := range b.Outputs {
		if o.Layout == "" {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(response[buildkit.KeyImageDescriptor])
		var d ocispec.Descriptor
		if err == nil {
			err = json.Unmarshal(raw, &d)
		}
		if err != nil {
			return fmt.Errorf("exported layout: %w", err)
		}
		for name := range strings.SplitSeq(response[buildkit.KeyImageName], ",") {
			tag := ""
			if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
				tag = name[i+1:]
			}
			if err := tagInLayout(o.Layout, name, tag, d); err != nil {
				return fmt.Errorf("exported layout: %w", err)
			}
		}
	}
	return nil
}

// tagCaches writes into the indexes of exported caches what the daemon has answered.
func (b *Build) tagCaches(response map[string]string) error {
	raw, ok := response[buildkit.KeyCacheManifest]
	if !ok {
		return nil
	}
	var d ocispec.Descriptor
	if err := json.Unmarshal([]byte(raw), &d); err != nil {
		return fmt.Errorf("exported cache: %w", err)
	}
	for _, c := range b.CacheTo {
		if c.Dir == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(c.Dir, ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded())); err != nil {
			continue // this one was not written, and may fail
		}
		if err := tagInLayout(c.Dir, "", c.Attrs["tag"], d); err != nil {
			return fmt.Errorf("exported cache: %w", err)
		}
	}
	return nil
}
