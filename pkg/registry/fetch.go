package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strata/pkg/ctxlog"
	"strata/pkg/imageref"
	"strata/pkg/manifest"
)

// stall is how long a body may stay silent before the request is given up and resumed.
const stall = 60 * time.Second

// copyBuffer is the size of a read from the network, in bytes.
const copyBuffer = 256 << 10

// Resolve returns the descriptor of what the reference names. Errors by class:
// ErrNotFound, ErrUnauthenticated, ErrPermissionDenied, ErrUnavailable.
func (r *Repository) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	err := r.each(ctx, canResolve, func(h host, attempts int) (err error) {
		desc, err = r.resolveAt(ctx, h, attempts)
		return err
	})
	if err != nil {
		return desc, fmt.Errorf("resolve %q: %w", r.ref, err)
	}
	return desc, nil
}

func (r *Repository) manifestCall(method, what string) call {
	return call{
		method: method, path: "manifests/" + what,
		header: http.Header{"Accept": {strings.Join(manifest.Accept, ", ")}},
		scopes: []string{scope(r.ref.Path, "pull")},
	}
}

// resolveAt asks with HEAD, and with GET where that does not say enough.
func (r *Repository) resolveAt(ctx context.Context, h host, attempts int) (ocispec.Descriptor, error) {
	what := r.tagOrDigest()
	resp, err := r.do(ctx, h, r.manifestCall(http.MethodHead, what), attempts)
	var refusal *Error
	if err != nil && (!errors.As(err, &refusal) || refusal.Status == http.StatusUnauthorized || refusal.transient()) {
		return ocispec.Descriptor{}, err
	}
	if err == nil {
		_ = resp.Body.Close()
		desc := ocispec.Descriptor{Size: resp.ContentLength, Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest"))}
		desc.MediaType, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
		if d, err := digest.Parse(what); err == nil {
			desc.Digest = d // the answer is checked against it when it is fetched
		}
		if manifest.Validate(desc) == nil && desc.Size > 0 && (manifest.IsIndex(desc.MediaType) || manifest.IsManifest(desc.MediaType)) {
			return desc, nil
		}
	}
	// A HEAD has no body to explain a refusal, so that the GET gives the error as well.
	raw, mediaType, err := r.getManifest(ctx, h, what, attempts)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	doc, err := manifest.Parse(mediaType, raw)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: doc.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if d, err := digest.Parse(what); err == nil {
		if d.Algorithm().FromBytes(raw) != d {
			return desc, fmt.Errorf("registry %s sent %s for %s: %w", h.base.Host, desc.Digest, d, errdefs.ErrDataLoss)
		}
		desc.Digest = d
	}
	return desc, nil
}

// getManifest reads a manifest, bounded.
func (r *Repository) getManifest(ctx context.Context, h host, what string, attempts int) ([]byte, string, error) {
	b := backoff{limit: attempts}
	for {
		raw, mediaType, err := r.getManifestOnce(ctx, h, what, attempts)
		if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) || !b.next(ctx, err) {
			return raw, mediaType, err
		}
	}
}

func (r *Repository) getManifestOnce(ctx context.Context, h host, what string, attempts int) ([]byte, string, error) {
	resp, err := r.do(ctx, h, r.manifestCall(http.MethodGet, what), attempts)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, manifest.MaxSize+1))
	if err != nil {
		return nil, "", fmt.Errorf("read manifest: %w", classify(err))
	}
	if len(raw) > manifest.MaxSize {
		return nil, "", fmt.Errorf("manifest of %s is larger than %d bytes: %w", r.ref, manifest.MaxSize, errdefs.ErrInvalidArgument)
	}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return raw, mediaType, nil
}

// Manifest fetches the manifest or index of desc and checks its digest. Errors as for
// Resolve, and ErrDataLoss for bytes of another digest.
func (r *Repository) Manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	var raw []byte
	err := r.each(ctx, canPull, func(h host, attempts int) (err error) {
		if raw, _, err = r.getManifest(ctx, h, desc.Digest.String(), attempts); err != nil {
			return err
		}
		if got := desc.Digest.Algorithm().FromBytes(raw); got != desc.Digest {
			return fmt.Errorf("registry %s sent %s: %w", h.base.Host, got, errdefs.ErrDataLoss)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fetch manifest %s: %w", desc.Digest, err)
	}
	return raw, nil
}

// Sink takes the bytes of a blob. A content store's writer is one.
type Sink interface {
	io.Writer
	// Offset returns how many bytes it has.
	Offset() (int64, error)
	// Truncate cuts it to size bytes.
	Truncate(size int64) error
}

// Fetch appends to w what is missing of blob desc, and goes on from w's offset after each
// truncation, stall or refusal that may pass. progress, if not nil, hears the offset. Fetch
// does not check the digest: the caller commits w against desc. Errors by class as for
// Resolve; an error of w is final.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor, w Sink, progress func(offset int64)) error {
	if desc.Size == 0 {
		return w.Truncate(0)
	}
	err := r.each(ctx, canPull, func(h host, attempts int) error {
		u := h.base.JoinPath(r.ref.Path, "blobs", desc.Digest.String())
		return r.fetchFrom(ctx, h, u, desc, w, progress, attempts)
	})
	for _, s := range desc.URLs {
		if err == nil || ctx.Err() != nil {
			break
		}
		u, perr := url.Parse(s)
		if perr != nil || (u.Scheme != "http" && u.Scheme != "https") {
			continue
		}
		foreign := host{base: url.URL{Scheme: "none", Host: "none"}, client: r.hosts[len(r.hosts)-1].client}
		err = r.fetchFrom(ctx, foreign, u, desc, w, progress, maxAttempts)
	}
	if err != nil {
		return fmt.Errorf("fetch blob %s: %w", desc.Digest, err)
	}
	return nil
}

// sinkError marks an error of the sink, which no other host will mend.
type sinkError struct{ error }

func (e sinkError) Unwrap() error { return e.error }

// fetchFrom repeats attempts as long as they make progress or may do so later.
func (r *Repository) fetchFrom(ctx context.Context, h host, u *url.URL, desc ocispec.Descriptor, w Sink, progress func(int64), attempts int) error { //nolint:revive // the parts of one thing, used once
	b := backoff{limit: attempts}
	for {
		before, err := w.Offset()
		if err != nil {
			return err
		}
		if before > desc.Size {
			if err := w.Truncate(0); err != nil {
				return err
			}
			before = 0
		}
		if before == desc.Size {
			return nil
		}
		err = r.fetchOnce(ctx, h, u, desc, w, before, progress)
		var se sinkError
		if errors.As(err, &se) {
			return se.error
		}
		after, oerr := w.Offset()
		if oerr != nil {
			return oerr
		}
		if err == nil && after == desc.Size {
			return nil
		}
		if err == nil {
			err = classify(io.ErrUnexpectedEOF)
		}
		if errdefs.IsOutOfRange(err) && before > 0 {
			if err := w.Truncate(0); err != nil {
				return err
			}
			err = classify(err)
		}
		if after > before {
			b.attempt = 0
		}
		if !b.next(ctx, err) {
			return err
		}
	}
}

// fetchOnce asks for the closed range from offset on and copies it.
func (r *Repository) fetchOnce(ctx context.Context, h host, u *url.URL, desc ocispec.Descriptor, w Sink, offset int64, progress func(int64)) error { //nolint:revive // the parts of one thing, used once
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := call{method: http.MethodGet, url: u, header: http.Header{"Accept": {desc.MediaType, "*/*"}}, scopes: []string{scope(r.ref.Path, "pull")}}
	if h.mirror {
		c.query = url.Values{"ns": {r.ref.Domain}}
	}
	if offset > 0 {
		c.header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, desc.Size-1))
	}
	resp, err := r.once(ctx, h, c)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	watchdog := time.AfterFunc(stall, func() {
		cancel(fmt.Errorf("no data for %s: %w", stall, errdefs.ErrUnavailable))
	})
	defer watchdog.Stop()
	if err := skipTo(resp, offset); err != nil {
		return err
	}
	buf := make([]byte, copyBuffer)
	for offset < desc.Size {
		n, rerr := resp.Body.Read(buf[:min(int64(len(buf)), desc.Size-offset)])
		watchdog.Reset(stall)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return sinkError{err}
			}
			offset += int64(n)
			if progress != nil {
				progress(offset)
			}
		}
		if errors.Is(rerr, io.EOF) && offset < desc.Size {
			rerr = io.ErrUnexpectedEOF
		}
		if rerr != nil && offset < desc.Size {
			if cause := context.Cause(ctx); errdefs.IsUnavailable(cause) {
				return cause
			}
			return classify(rerr)
		}
	}
	return excess(ctx, resp.Body)
}

// excess drains the end of a body so that its connection can be used again; more bytes
// than announced are dropped, since the digest decides.
func excess(ctx context.Context, body io.Reader) error {
	if n, _ := io.CopyN(io.Discard, body, 1); n > 0 {
		ctxlog.From(ctx).Debug("registry sent more than the blob's size")
	}
	return nil
}

// skipTo brings the body to offset: a server that ignores ranges sends everything.
func skipTo(resp *http.Response, offset int64) error {
	start := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		var err error
		if start, err = rangeStart(resp.Header.Get("Content-Range")); err != nil {
			return err
		}
	}
	if start > offset {
		return fmt.Errorf("registry answered with a range from %d instead of %d: %w", start, offset, errdefs.ErrUnavailable)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, offset-start); err != nil {
		return classify(err)
	}
	return nil
}

// rangeStart reads "bytes 5-9/10".
func rangeStart(v string) (int64, error) {
	first, _, ok := strings.Cut(strings.TrimPrefix(v, "bytes "), "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || err != nil || n < 0 {
		return 0, fmt.Errorf("content range %q is malformed: %w", v, errdefs.ErrUnavailable)
	}
	return n, nil
}

// Blob reads a small blob, at most limit bytes, and checks its digest.
func (r *Repository) Blob(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("blob %s of %d bytes is larger than %d: %w", desc.Digest, desc.Size, limit, errdefs.ErrInvalidArgument)
	}
	var buf memory
	if err := r.Fetch(ctx, desc, &buf, nil); err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(buf.Bytes()); got != desc.Digest {
		return nil, fmt.Errorf("blob %s: registry sent %s: %w", desc.Digest, got, errdefs.ErrDataLoss)
	}
	return buf.Bytes(), nil
}

// memory is a Sink for small blobs.
type memory struct{ bytes.Buffer }

func (m *memory) Offset() (int64, error) { return int64(m.Len()), nil }

func (m *memory) Truncate(size int64) error {
	m.Buffer.Truncate(int(size))
	return nil
}

// maxTags bounds how many tags Tags returns.
const maxTags = 10_000

// Tags returns the tags of the repository, in the registry's order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	err := r.each(ctx, canResolve, func(h host, attempts int) error {
		tags = nil
		c := call{method: http.MethodGet, path: "tags/list", scopes: []string{scope(r.ref.Path, "pull")}}
		for len(tags) < maxTags {
			page, more, err := r.tagPage(ctx, h, c, attempts)
			if err != nil {
				return err
			}
			tags = append(tags, page...)
			if more == nil {
				return nil
			}
			c.url = more
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tags of %q: %w", imageref.Name{Domain: r.ref.Domain, Path: r.ref.Path}.String(), err)
	}
	return tags, nil
}

// tagPage returns one page of tags, and where the next one is.
func (r *Repository) tagPage(ctx context.Context, h host, c call, attempts int) ([]string, *url.URL, error) {
	resp, err := r.do(ctx, h, c, attempts)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	var page struct {
		Tags []string `json:"tags"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, manifest.MaxSize)).Decode(&page); err != nil {
		return nil, nil, fmt.Errorf("parse list of tags: %w", err)
	}
	link, _, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	if !ok {
		return page.Tags, nil, nil
	}
	more, err := resp.Request.URL.Parse(link)
	if err != nil || !h.owns(more) {
		return nil, nil, fmt.Errorf("registry sent link %q: %w", link, errdefs.ErrUnknown)
	}
	return page.Tags, more, nil
}
