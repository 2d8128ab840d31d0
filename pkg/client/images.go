package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
)

func imagePath(ref, verb string) string { return "/images/" + ref + verb }

// ImageList returns the images that match.
func (c *Client) ImageList(ctx context.Context, all bool, f Filters) ([]image.Summary, error) {
	q := f.query()
	setBool(q, "all", all)
	var out []image.Summary
	err := c.call(ctx, request{method: http.MethodGet, path: "/images/json", query: q}, &out)
	return out, err
}

// ImageInspect returns the image decoded and as the daemon wrote it. Platform is os/arch or empty.
func (c *Client) ImageInspect(ctx context.Context, ref, platform string) (image.InspectResponse, []byte, error) {
	q, err := c.platformQuery(ctx, platform, "1.49")
	if err != nil {
		return image.InspectResponse{}, nil, err
	}
	var out image.InspectResponse
	raw, err := c.callRaw(ctx, request{method: http.MethodGet, path: imagePath(ref, "/json"), query: q}, &out)
	return out, raw, err
}

// ImageHistory lists how an image was made, newest step first.
func (c *Client) ImageHistory(ctx context.Context, ref, platform string) ([]image.HistoryResponseItem, error) {
	q, err := c.platformQuery(ctx, platform, "1.48")
	if err != nil {
		return nil, err
	}
	var out []image.HistoryResponseItem
	err = c.call(ctx, request{method: http.MethodGet, path: imagePath(ref, "/history"), query: q}, &out)
	return out, err
}

// ImagePull fetches repository:tag (or @digest); the stream is of jsonstream messages.
func (c *Client) ImagePull(ctx context.Context, repository, tag, platform, auth string) (io.ReadCloser, error) {
	q := url.Values{"fromImage": {repository}}
	setString(q, "tag", tag)
	setString(q, "platform", platform)
	return c.stream(ctx, request{method: http.MethodPost, path: "/images/create", query: q, header: authHeader(auth)})
}

// ImageImport makes an image of a tar stream (source "-") or of a URL that the daemon fetches.
func (c *Client) ImageImport(ctx context.Context, source string, tar io.Reader, opts ImportImage) (io.ReadCloser, error) {
	q := url.Values{"fromSrc": {source}}
	setString(q, "repo", opts.Repository)
	setString(q, "tag", opts.Tag)
	setString(q, "message", opts.Message)
	setString(q, "platform", opts.Platform)
	for _, ch := range opts.Changes {
		q.Add("changes", ch)
	}
	r := request{method: http.MethodPost, path: "/images/create", query: q}
	if tar != nil {
		r.body = tar
	}
	return c.stream(ctx, r)
}

// ImportImage describes the image that ImageImport makes.
type ImportImage struct {
	Repository, Tag, Message, Platform string
	Changes                            []string
}

// ImagePush sends an image to its registry; the stream is of jsonstream messages.
func (c *Client) ImagePush(ctx context.Context, repository, tag, platform, auth string) (io.ReadCloser, error) {
	q, err := c.platformQuery(ctx, platform, "1.46")
	if err != nil {
		return nil, err
	}
	setString(q, "tag", tag)
	return c.stream(ctx, request{method: http.MethodPost, path: imagePath(repository, "/push"), query: q, header: authHeader(auth)})
}

// ImageTag gives an image one more name.
func (c *Client) ImageTag(ctx context.Context, source, repository, tag string) error {
	q := url.Values{"repo": {repository}}
	setString(q, "tag", tag)
	return c.post(ctx, imagePath(source, "/tag"), q)
}

// ImageRemove removes a name, and the image with its last name.
func (c *Client) ImageRemove(ctx context.Context, ref string, force, noPrune bool) ([]image.DeleteResponse, error) {
	q := url.Values{}
	setBool(q, "force", force)
	setBool(q, "noprune", noPrune)
	var out []image.DeleteResponse
	err := c.call(ctx, request{method: http.MethodDelete, path: imagePath(ref, ""), query: q}, &out)
	return out, err
}

// ImageLoad reads an archive of images; the stream is of jsonstream messages.
func (c *Client) ImageLoad(ctx context.Context, tar io.Reader, quiet bool, platform string) (io.ReadCloser, error) {
	q, err := c.platformQuery(ctx, platform, "1.48")
	if err != nil {
		return nil, err
	}
	q.Set("quiet", "0")
	setBool(q, "quiet", quiet)
	return c.stream(ctx, request{method: http.MethodPost, path: "/images/load", query: q, body: tar})
}

// ImageSave opens an archive of the named images.
func (c *Client) ImageSave(ctx context.Context, refs []string, platform string) (io.ReadCloser, error) {
	q, err := c.platformQuery(ctx, platform, "1.48")
	if err != nil {
		return nil, err
	}
	q["names"] = refs
	return c.stream(ctx, request{method: http.MethodGet, path: "/images/get", query: q})
}

// ImagesPrune removes unused images.
func (c *Client) ImagesPrune(ctx context.Context, f Filters) (image.PruneReport, error) {
	var out image.PruneReport
	err := c.call(ctx, request{method: http.MethodPost, path: "/images/prune", query: f.query()}, &out)
	return out, err
}

// EncodeAuth writes a credential as the API's X-Registry-Auth header wants it.
func EncodeAuth(a registry.AuthConfig) (string, error) {
	data, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	return base64.URLEncoding.EncodeToString(data), nil
}

func authHeader(auth string) http.Header {
	if auth == "" {
		return nil
	}
	return http.Header{registry.AuthHeader: {auth}}
}

// platformQuery encodes os[/arch[/variant]] as the JSON that newer routes take. It refuses, with
// class ErrInvalidArgument, a platform that the daemon is too old for.
func (c *Client) platformQuery(ctx context.Context, platform, since string) (url.Values, error) {
	q := url.Values{}
	if platform == "" {
		return q, nil
	}
	ok, err := c.AtLeast(ctx, since)
	if err != nil {
		return nil, err
	}
	if !ok {
		v, _ := c.Version(ctx)
		return nil, tooOld(`"--platform"`, since, v)
	}
	p, err := parsePlatform(platform)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode platform %q: %w", platform, err)
	}
	q.Set("platform", string(data))
	return q, nil
}
