package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/container"
)

// pathStatHeader carries a base64 JSON container.PathStat.
const pathStatHeader = "X-Docker-Container-Path-Stat"

// ContainerStatPath describes a path inside a container, without following a last symlink.
func (c *Client) ContainerStatPath(ctx context.Context, name, path string) (container.PathStat, error) {
	resp, err := c.do(ctx, request{method: http.MethodHead, path: containerPath(name, "/archive"), query: url.Values{"path": {path}}})
	if err != nil {
		return container.PathStat{}, headError(err, name, path)
	}
	defer drain(resp)
	return decodePathStat(resp.Header)
}

// headError gives the answer to a HEAD, which has no body, a message.
func headError(err error, name, path string) error {
	e, ok := err.(*Error) //nolint:errorlint // do returns it bare
	if ok && e.Status == http.StatusNotFound {
		e.Message = fmt.Sprintf("Could not find the file %s in container %s", path, name)
	}
	return err
}

// ContainerCopyFrom opens the file or tree at path as a tar stream.
func (c *Client) ContainerCopyFrom(ctx context.Context, name, path string) (io.ReadCloser, container.PathStat, error) {
	resp, err := c.do(ctx, request{method: http.MethodGet, path: containerPath(name, "/archive"), query: url.Values{"path": {path}}})
	if err != nil {
		return nil, container.PathStat{}, err
	}
	stat, err := decodePathStat(resp.Header)
	if err != nil {
		drain(resp)
		return nil, container.PathStat{}, err
	}
	return resp.Body, stat, nil
}

// CopyTo says how an archive is unpacked into a container.
type CopyTo struct {
	// AllowOverwriteDirWithFile lets a file replace a directory and the other way round.
	AllowOverwriteDirWithFile bool
	// CopyUIDGID keeps the owners of the archive.
	CopyUIDGID bool
}

// ContainerCopyTo unpacks a tar stream below the directory path.
func (c *Client) ContainerCopyTo(ctx context.Context, name, path string, tar io.Reader, opts CopyTo) error {
	q := url.Values{"path": {path}}
	setBool(q, "copyUIDGID", opts.CopyUIDGID)
	if !opts.AllowOverwriteDirWithFile {
		q.Set("noOverwriteDirNonDir", "true")
	}
	return c.call(ctx, request{method: http.MethodPut, path: containerPath(name, "/archive"), query: q, body: tar}, nil)
}

func decodePathStat(h http.Header) (container.PathStat, error) {
	var stat container.PathStat
	data, err := base64.StdEncoding.DecodeString(h.Get(pathStatHeader))
	if err != nil {
		return stat, fmt.Errorf("decode header %s: %w", pathStatHeader, err)
	}
	if err := json.Unmarshal(data, &stat); err != nil {
		return stat, fmt.Errorf("decode header %s: %w", pathStatHeader, err)
	}
	return stat, nil
}
