package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"strata/pkg/imageref"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pushed says how a blob got to the registry.
type Pushed uint8

// The ways of a blob to a registry.
const (
	Uploaded Pushed = iota + 1
	Existed
	Mounted // from another repository of the same registry
)

// Has reports whether the repository holds the manifest or blob desc.
func (r *Repository) has(ctx context.Context, h host, desc ocispec.Descriptor, kind string) (bool, error) {
	c := call{method: http.MethodHead, path: kind + "/" + desc.Digest.String(), scopes: r.pushScopes("")}
	c.header = http.Header{"Accept": {desc.MediaType, "*/*"}}
	resp, err := r.do(ctx, h, c, maxAttempts)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}

func (r *Repository) pushScopes(from string) []string {
	scopes := []string{scope(r.ref.Path, "pull", "push")}
	if from != "" {
		scopes = append(scopes, scope(from, "pull"))
	}
	return scopes
}

// PushBlob makes the repository hold blob desc, whose bytes are in src: by nothing if it
// is there, by mounting it from one of the repositories in sources (of the same registry)
// that has it, or by an upload that goes on where it broke off. progress, if not nil,
// hears how many bytes the registry has.
func (r *Repository) PushBlob(ctx context.Context, desc ocispec.Descriptor, src io.ReaderAt, sources []string, progress func(int64)) (Pushed, error) {
	how := Uploaded
	err := r.each(ctx, canPush, func(h host, _ int) (err error) {
		how, err = r.pushBlobTo(ctx, h, desc, src, sources, progress)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("push blob %s: %w", desc.Digest, err)
	}
	return how, nil
}

func (r *Repository) pushBlobTo(ctx context.Context, h host, desc ocispec.Descriptor, src io.ReaderAt, sources []string, progress func(int64)) (Pushed, error) { //nolint:revive // the parts of one thing, used once
	there, err := r.has(ctx, h, desc, "blobs")
	if err != nil {
		return 0, err
	}
	if there {
		return Existed, nil
	}
	var location *url.URL
	for _, from := range sources {
		if from == r.ref.Path || from == "" {
			continue
		}
		var mounted bool
		if location, mounted, err = r.startUpload(ctx, h, desc, from); err == nil && mounted {
			return Mounted, nil
		}
		if err == nil {
			break // the registry opened an upload instead
		}
	}
	b := backoff{limit: maxAttempts}
	for {
		if location == nil {
			if location, _, err = r.startUpload(ctx, h, desc, ""); err != nil {
				return 0, err
			}
		}
		if err = r.upload(ctx, h, desc, src, location, progress); err == nil {
			return Uploaded, nil
		}
		if errdefs.IsNotFound(err) { // the registry forgot the upload
			err = classify(err)
		}
		if !b.next(ctx, err) {
			return 0, err
		}
		location = nil
	}
}

// startUpload opens an upload, or mounts the blob from another repository.
func (r *Repository) startUpload(ctx context.Context, h host, desc ocispec.Descriptor, from string) (*url.URL, bool, error) {
	c := call{method: http.MethodPost, path: "blobs/uploads/", scopes: r.pushScopes(from)}
	if from != "" {
		c.query = url.Values{"mount": {desc.Digest.String()}, "from": {from}}
	}
	c.body = func() (io.Reader, error) { return http.NoBody, nil }
	resp, err := r.do(ctx, h, c, maxAttempts)
	if err != nil {
		return nil, false, fmt.Errorf("start upload: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		return nil, true, nil
	}
	u, err := next(resp)
	return u, false, err
}

// next returns the Location of an answer.
func next(resp *http.Response) (*url.URL, error) {
	loc := resp.Header.Get("Location")
	u, err := resp.Request.URL.Parse(loc)
	if loc == "" || err != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("registry sent location %q for an upload: %w", loc, errdefs.ErrUnknown)
	}
	if resp.Request.URL.Scheme == "https" && u.Scheme == "http" && strings.EqualFold(u.Hostname(), resp.Request.URL.Hostname()) {
		u.Scheme = "https" // behind a proxy that ends TLS
	}
	return u, nil
}

// upload sends the blob in one PUT. If that breaks off, it asks how far the registry got
// and goes on with PATCHes.
func (r *Repository) upload(ctx context.Context, h host, desc ocispec.Descriptor, src io.ReaderAt, location *url.URL, progress func(int64)) error { //nolint:revive // the parts of one thing, used once
	body := func(from int64) func() (io.Reader, error) {
		return func() (io.Reader, error) {
			return &counted{r: io.NewSectionReader(src, from, desc.Size-from), n: from, fn: progress}, nil
		}
	}
	put := call{
		method: http.MethodPut, url: location, query: url.Values{"digest": {desc.Digest.String()}},
		header: http.Header{"Content-Type": {"application/octet-stream"}}, scopes: r.pushScopes(""),
		body: body(0), size: desc.Size,
	}
	err := drained(r.once(ctx, h, put))
	b := backoff{limit: maxAttempts}
	for err != nil && transient(err) && b.next(ctx, err) {
		var offset int64
		if offset, location, err = r.uploadStatus(ctx, h, location); err != nil {
			return err
		}
		if offset > desc.Size {
			return fmt.Errorf("registry has %d bytes of an upload of %d: %w", offset, desc.Size, errdefs.ErrDataLoss)
		}
		if offset < desc.Size {
			patch := call{
				method: http.MethodPatch, url: location, scopes: r.pushScopes(""), body: body(offset), size: desc.Size - offset,
				header: http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", offset, desc.Size-1)}},
			}
			resp, perr := r.once(ctx, h, patch)
			if err = drained(resp, perr); err != nil {
				continue
			}
			if location, err = next(resp); err != nil {
				return err
			}
		}
		put.url, put.size = location, 0
		put.body = func() (io.Reader, error) { return http.NoBody, nil }
		err = drained(r.once(ctx, h, put))
	}
	return err
}

// uploadStatus asks how many bytes of an upload the registry has.
func (r *Repository) uploadStatus(ctx context.Context, h host, location *url.URL) (int64, *url.URL, error) {
	resp, err := r.do(ctx, h, call{method: http.MethodGet, url: location, scopes: r.pushScopes("")}, maxAttempts)
	if err = drained(resp, err); err != nil {
		return 0, nil, fmt.Errorf("ask for upload status: %w", err)
	}
	if resp.Header.Get("Location") != "" {
		if location, err = next(resp); err != nil {
			return 0, nil, err
		}
	}
	_, last, ok := strings.Cut(resp.Header.Get("Range"), "-")
	end, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || end <= 0 { // "0-0" is nothing or one byte: begin again
		return 0, location, nil //nolint:nilerr // said above
	}
	return end + 1, location, nil
}

// drained closes an answer whose body does not matter.
func drained(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody)
	return resp.Body.Close()
}

// PushManifest stores raw, the manifest or index desc, by its digest or, if tag is not
// empty, under tag as well. The bytes go as they are.
func (r *Repository) PushManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte, tag string) error {
	what := tag
	if tag == "" {
		what = desc.Digest.String()
	}
	c := call{
		method: http.MethodPut, path: "manifests/" + what, scopes: r.pushScopes(""),
		header: http.Header{"Content-Type": {desc.MediaType}},
		body:   func() (io.Reader, error) { return bytes.NewReader(raw), nil }, size: int64(len(raw)),
	}
	err := r.each(ctx, canPush, func(h host, attempts int) error {
		resp, err := r.do(ctx, h, c, attempts)
		if err = drained(resp, err); err != nil {
			return err
		}
		if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != desc.Digest.String() {
			return fmt.Errorf("registry stored the manifest as %s: %w", got, errdefs.ErrDataLoss)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("push manifest %s: %w", desc.Digest, err)
	}
	return nil
}

// HasManifest reports whether the repository holds desc by digest.
func (r *Repository) HasManifest(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	var there bool
	err := r.each(ctx, canPush, func(h host, _ int) (err error) {
		there, err = r.has(ctx, h, desc, "manifests")
		return err
	})
	return there, err
}

// Tag returns the tag of the reference, or "" if it names a digest only.
func (r *Repository) Tag() string {
	what := r.tagOrDigest()
	if _, err := digest.Parse(what); err == nil {
		return ""
	}
	return what
}

// Login proves cred at the registry name and returns an identity token if the registry
// issues one. Errors: ErrUnauthenticated, ErrUnavailable.
func (c *Client) Login(ctx context.Context, name string, cred Credential, opts Options) (string, error) {
	hosts, err := c.hostsOf(name, opts)
	if err != nil {
		return "", err
	}
	h := hosts[len(hosts)-1] // the registry itself: mirrors know no accounts
	base := *h.base.JoinPath("/")
	r := &Repository{ref: imageref.Name{Domain: name}, hosts: hosts, agent: c.cfg.UserAgent, auth: newAuthorizer(func(context.Context, string, []string) (Credential, error) { return cred, nil })}
	resp, err := r.send(ctx, h, call{method: http.MethodGet, url: &base})
	if err != nil {
		return "", fmt.Errorf("log in to %s: %w", name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		return "", drainedStatus(resp)
	}
	for _, ch := range parseChallenges(resp.Header.Values("WWW-Authenticate")) {
		if ch.scheme != "bearer" {
			continue
		}
		if h.base.Scheme == "https" && !h.either && !strings.HasPrefix(ch.params["realm"], "https://") {
			return "", fmt.Errorf("log in to %s: token service without TLS: %w", name, errdefs.ErrUnauthenticated)
		}
		_, refresh, err := fetchToken(ctx, h.client, ch, cred, tokenRequest{offline: true})
		if err != nil {
			return "", fmt.Errorf("log in to %s: %w", name, err)
		}
		return refresh, nil
	}
	if err := drained(r.once(ctx, h, call{method: http.MethodGet, url: &base})); err != nil {
		var refusal *Error
		if errors.As(err, &refusal) && refusal.Status == http.StatusUnauthorized {
			return "", fmt.Errorf("login attempt to %s failed with status: 401 Unauthorized: %w", base.String(), errdefs.ErrUnauthenticated)
		}
		return "", fmt.Errorf("log in to %s: %w", name, err)
	}
	return "", nil
}

func drainedStatus(resp *http.Response) error {
	if resp.StatusCode >= 400 {
		return statusError(resp, nil)
	}
	return nil
}

// counted tells fn how far a body was read.
type counted struct {
	r  io.Reader
	n  int64
	fn func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if n > 0 && c.fn != nil {
		c.fn(c.n)
	}
	return n, err
}
