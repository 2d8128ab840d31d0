package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
	"strata/pkg/linux/mount"
	"strata/pkg/version"
)

// place does a COPY or an ADD on the active snapshot.
func (b *builder) place(ctx context.Context, w *work, rootfs []mount.Mount) error {
	c := w.v.Copy
	mode, err := dockerfile.ParseMode(c.Chmod)
	if err != nil {
		return err
	}
	return mount.WithTemp(ctx, rootfs, func(root string) error {
		owner, err := ownerOf(root, c.Chown)
		if err != nil {
			return err
		}
		for i := range w.parts {
			if err := putPart(ctx, root, c, &w.parts[i], files.Placement{Dest: c.Dest, Owner: owner, Mode: mode, DirMode: dockerfile.OctalMode(c.Chmod)}); err != nil {
				return err
			}
		}
		if len(c.Files) == 0 {
			return nil
		}
		t, items := inline(c.Files)
		return files.Put(ctx, root, t, items, files.Placement{Dest: c.Dest, Owner: owner, Mode: mode, DirMode: dockerfile.OctalMode(c.Chmod)})
	})
}

func putPart(ctx context.Context, root string, c *dockerfile.Copy, w *part, p files.Placement) error {
	_, fromNet := w.tree.(fetched)
	p.Unpack = c.Unpack && (!fromNet || c.Fetched)
	if len(w.items) == 0 && !strings.HasSuffix(c.Dest, "/") {
		p.Dest += "/" // the content of an empty directory
	}
	if !fromNet {
		if err := files.CheckDestination(w.items, p); err != nil {
			return err
		}
	}
	return files.Put(ctx, root, w.tree, w.items, p)
}

// inline is the here-documents of a COPY.
func inline(list []dockerfile.File) (files.Tree, []files.Item) {
	t := inlineTree{}
	var items []files.Item
	for _, f := range list {
		name := "/" + path.Base(f.Name)
		t[name] = f.Data
		items = append(items, files.Item{
			Node: files.Node{Mode: 0o644, Size: int64(len(f.Data)), ModTime: time.Unix(0, 0)}, Source: name, Base: path.Base(f.Name), Top: true,
		})
	}
	return t, items
}

type inlineTree map[string]string

func (t inlineTree) Lstat(name string) (files.Node, error) {
	data, ok := t[name]
	if !ok {
		return files.Node{}, fs.ErrNotExist
	}
	return files.Node{Mode: 0o644, Size: int64(len(data))}, nil
}

func (t inlineTree) ReadDir(string) ([]string, error) { return nil, fs.ErrNotExist }

func (t inlineTree) Open(name string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(t[name])), nil
}

// maxDownload bounds an ADD of a URL, in bytes.
const maxDownload = 16 << 30

// fetched is files from the network, in a file without a name.
type fetched struct {
	inlineTree
	spools map[string]*os.File
}

// Open implements files.Tree.
func (t fetched) Open(name string) (io.ReadCloser, error) {
	f, ok := t.spools[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(io.NewSectionReader(f, 0, 1<<62)), nil
}

// fetchAll downloads the URLs of an ADD.
func (b *builder) fetchAll(ctx context.Context, w *work) (part, digest.Digest, error) {
	c := w.v.Copy
	var items []files.Item
	t := fetched{spools: map[string]*os.File{}}
	for _, u := range c.URLs {
		f, err := os.CreateTemp(b.s.tmpDir(), "url-")
		if err != nil {
			return part{}, "", err
		}
		w.undo.Add(func() { _ = f.Close() }) // nobody needs it any more
		if err := os.Remove(f.Name()); err != nil {
			return part{}, "", err
		}
		it, err := fetch(ctx, u, f)
		if err != nil {
			return part{}, "", fmt.Errorf("ADD failed: %w", err)
		}
		if got := digest.NewDigestFromBytes(digest.SHA256, it.Digest[:]); c.Checksum != "" && got != c.Checksum {
			return part{}, "", fmt.Errorf("ADD failed: digest mismatch %s: %s: %w", got, c.Checksum, errdefs.ErrInvalidArgument)
		}
		t.spools[it.Source] = f
		items = append(items, it)
		b.fetchedFrom(Material{redacted(u), map[string]string{"sha256": hex.EncodeToString(it.Digest[:])}})
	}
	d, err := files.Digest(ctx, t, items)
	return part{t, items}, d, err
}

// userAgent is what servers are told: some refuse who does not say its name.
func userAgent() string { return "strata/" + version.Version }

// fetch downloads one URL to f.
func fetch(ctx context.Context, source string, f *os.File) (files.Item, error) {
	var it files.Item
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return it, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	req.Header.Set("User-Agent", userAgent())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return it, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode >= http.StatusBadRequest {
		return it, fmt.Errorf("invalid response status %s from %s: %w", resp.Status, source, errdefs.ErrNotFound)
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), io.LimitReader(resp.Body, maxDownload+1))
	if err != nil {
		return it, fmt.Errorf("download %s: %w", source, err)
	}
	if n > maxDownload {
		return it, fmt.Errorf("%s is larger than %d bytes: %w", source, int64(maxDownload), errdefs.ErrResourceExhausted)
	}
	it.Base = "__unnamed__"
	if u, err := url.Parse(source); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			it.Base = base
		}
	}
	it.Source, it.Top, it.Size, it.Mode, it.ModTime = "/"+source, true, n, 0o600, time.Unix(0, 0)
	if at, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		it.ModTime = at
	}
	hash.Sum(it.Digest[:0])
	return it, nil
}
