package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"strata/pkg/api"
)

// containerPath is the route of one container; name may be an id, a prefix or a name. It is
// escaped when the URL is written.
func containerPath(name, verb string) string { return "/containers/" + name + verb }

// ListContainers says which containers ContainerList returns.
type ListContainers struct {
	All     bool
	Size    bool
	Limit   int // 0 = no limit
	Filters Filters
}

// ContainerList returns summaries, newest first.
func (c *Client) ContainerList(ctx context.Context, opts ListContainers) ([]container.Summary, error) {
	q := url.Values{}
	setBool(q, "all", opts.All)
	setBool(q, "size", opts.Size)
	if opts.Limit > 0 {
		q.Set("limit", strconv.Itoa(opts.Limit))
	}
	opts.Filters.addTo(q)
	var out []container.Summary
	err := c.call(ctx, request{method: http.MethodGet, path: "/containers/json", query: q}, &out)
	return out, err
}

// CreateContainer is the body and the query of a create.
type CreateContainer struct {
	Name       string
	Platform   string
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	MacAddress string // of the primary endpoint; goes where the negotiated version wants it
}

// ContainerCreate makes a container. A missing image is an *Error of class ErrNotFound.
func (c *Client) ContainerCreate(ctx context.Context, req CreateContainer) (container.CreateResponse, error) {
	q := url.Values{}
	if req.Name != "" {
		q.Set("name", req.Name)
	}
	if req.Platform != "" {
		q.Set("platform", req.Platform)
	}
	body, err := c.createBody(ctx, req)
	if err != nil {
		return container.CreateResponse{}, err
	}
	var out container.CreateResponse
	err = c.call(ctx, request{method: http.MethodPost, path: "/containers/create", query: q, body: body}, &out)
	return out, err
}

// createBody puts the MAC address where the daemon looks for it: container-wide before API
// 1.44, on the endpoint since.
func (c *Client) createBody(ctx context.Context, req CreateContainer) (any, error) {
	body := container.CreateRequest{Config: req.Config, HostConfig: req.HostConfig, NetworkingConfig: req.Networking}
	if req.MacAddress == "" {
		return body, nil
	}
	perEndpoint, err := c.AtLeast(ctx, "1.44")
	if err != nil {
		return nil, err
	}
	if perEndpoint {
		return body, nil
	}
	if req.Networking != nil {
		for _, ep := range req.Networking.EndpointsConfig {
			ep.MacAddress = nil
		}
	}
	return withField(body, "MacAddress", req.MacAddress)
}

// withField adds one member that the types no longer have to the JSON of v.
func withField(v any, name, value string) (json.RawMessage, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	field, err := json.Marshal(map[string]string{name: value})
	if err != nil {
		return nil, err
	}
	if len(data) < 3 {
		return field, nil
	}
	return append(append(field[:len(field)-1], ','), data[1:]...), nil
}

// ContainerInspect returns the container decoded and as the daemon wrote it.
func (c *Client) ContainerInspect(ctx context.Context, name string, size bool) (container.InspectResponse, []byte, error) {
	q := url.Values{}
	setBool(q, "size", size)
	var out container.InspectResponse
	raw, err := c.callRaw(ctx, request{method: http.MethodGet, path: containerPath(name, "/json"), query: q}, &out)
	return out, raw, err
}

// post is a POST without body or answer.
func (c *Client) post(ctx context.Context, path string, q url.Values) error {
	return c.call(ctx, request{method: http.MethodPost, path: path, query: q}, nil)
}

// ContainerStart starts a created or stopped container; one that runs is no error.
func (c *Client) ContainerStart(ctx context.Context, name, detachKeys string) error {
	q := url.Values{}
	setString(q, "detachKeys", detachKeys)
	return c.post(ctx, containerPath(name, "/start"), q)
}

// StopContainer says how to stop. A nil Timeout is the container's own.
type StopContainer struct {
	Signal  string
	Timeout *int // seconds; -1 waits for ever
}

func (s StopContainer) query() url.Values {
	q := url.Values{}
	setString(q, "signal", s.Signal)
	if s.Timeout != nil {
		q.Set("t", strconv.Itoa(*s.Timeout))
	}
	return q
}

// ContainerStop stops a container; one that is stopped is no error.
func (c *Client) ContainerStop(ctx context.Context, name string, opts StopContainer) error {
	return c.post(ctx, containerPath(name, "/stop"), opts.query())
}

// ContainerRestart stops and starts a container.
func (c *Client) ContainerRestart(ctx context.Context, name string, opts StopContainer) error {
	return c.post(ctx, containerPath(name, "/restart"), opts.query())
}

// ContainerKill sends a signal, by name or number; empty is SIGKILL.
func (c *Client) ContainerKill(ctx context.Context, name, signal string) error {
	q := url.Values{}
	setString(q, "signal", signal)
	return c.post(ctx, containerPath(name, "/kill"), q)
}

// ContainerPause freezes all processes of a container.
func (c *Client) ContainerPause(ctx context.Context, name string) error {
	return c.post(ctx, containerPath(name, "/pause"), nil)
}

// ContainerUnpause thaws them.
func (c *Client) ContainerUnpause(ctx context.Context, name string) error {
	return c.post(ctx, containerPath(name, "/unpause"), nil)
}

// ContainerRename gives a container another name.
func (c *Client) ContainerRename(ctx context.Context, name, newName string) error {
	return c.post(ctx, containerPath(name, "/rename"), url.Values{"name": {newName}})
}

// ContainerResize sets the size of the terminal of a container.
func (c *Client) ContainerResize(ctx context.Context, name string, height, width uint) error {
	return c.post(ctx, containerPath(name, "/resize"), sizeQuery(height, width))
}

func sizeQuery(height, width uint) url.Values {
	return url.Values{"h": {strconv.FormatUint(uint64(height), 10)}, "w": {strconv.FormatUint(uint64(width), 10)}}
}

// RemoveContainer says what goes with the container.
type RemoveContainer struct {
	Force   bool
	Volumes bool
	Link    bool
}

// ContainerRemove removes a container.
func (c *Client) ContainerRemove(ctx context.Context, name string, opts RemoveContainer) error {
	q := url.Values{}
	setBool(q, "force", opts.Force)
	setBool(q, "v", opts.Volumes)
	setBool(q, "link", opts.Link)
	return c.call(ctx, request{method: http.MethodDelete, path: containerPath(name, ""), query: q}, nil)
}

// ContainerUpdate changes limits and the restart policy.
func (c *Client) ContainerUpdate(ctx context.Context, name string, conf container.UpdateConfig) (container.UpdateResponse, error) {
	var out container.UpdateResponse
	err := c.call(ctx, request{method: http.MethodPost, path: containerPath(name, "/update"), body: conf}, &out)
	return out, err
}

// ContainerPublish changes the published ports of a container.
func (c *Client) ContainerPublish(ctx context.Context, name string, change api.PublishChange) error {
	body := map[string]any{api.UpdatePublish: change}
	return c.call(ctx, request{method: http.MethodPost, path: containerPath(name, "/update"), body: body}, nil)
}

// ReadLogs says which part of the log to read. Since and Until are UNIX seconds with
// an optional fraction; Tail is a number or "all".
type ReadLogs struct {
	Stdout, Stderr, Follow, Timestamps, Details bool
	Since, Until, Tail                          string
}

// ContainerLogs opens the log; the stream is multiplexed unless the container has a terminal.
func (c *Client) ContainerLogs(ctx context.Context, name string, opts ReadLogs) (io.ReadCloser, error) {
	q := url.Values{}
	setBool(q, "stdout", opts.Stdout)
	setBool(q, "stderr", opts.Stderr)
	setBool(q, "follow", opts.Follow)
	setBool(q, "timestamps", opts.Timestamps)
	setBool(q, "details", opts.Details)
	setString(q, "since", opts.Since)
	setString(q, "until", opts.Until)
	setString(q, "tail", opts.Tail)
	return c.stream(ctx, request{method: http.MethodGet, path: containerPath(name, "/logs"), query: q})
}

// AttachContainer says which streams to take.
type AttachContainer struct {
	Stdin, Stdout, Stderr, Logs bool
	DetachKeys                  string
}

// ContainerAttach connects to the streams of a container.
func (c *Client) ContainerAttach(ctx context.Context, name string, opts AttachContainer) (*Stream, error) {
	q := url.Values{"stream": {"1"}}
	setBool(q, "stdin", opts.Stdin)
	setBool(q, "stdout", opts.Stdout)
	setBool(q, "stderr", opts.Stderr)
	setBool(q, "logs", opts.Logs)
	setString(q, "detachKeys", opts.DetachKeys)
	return c.hijack(ctx, request{method: http.MethodPost, path: containerPath(name, "/attach"), query: q})
}

// ContainerWait returns once the daemon watches the container, and delivers the result when
// the condition is met. Exactly one of result and error arrives on the channel.
func (c *Client) ContainerWait(ctx context.Context, name string, cond container.WaitCondition) (<-chan WaitResult, error) {
	q := url.Values{}
	setString(q, "condition", string(cond))
	body, err := c.stream(ctx, request{method: http.MethodPost, path: containerPath(name, "/wait"), query: q})
	if err != nil {
		return nil, err
	}
	ch := make(chan WaitResult, 1) // buffered, so that nobody has to read it
	go func() {
		defer body.Close()
		var resp container.WaitResponse
		if err := json.NewDecoder(body).Decode(&resp); err != nil {
			ch <- WaitResult{Err: fmt.Errorf("wait for container %q: %w", name, hangUp(err))}
			return
		}
		r := WaitResult{StatusCode: int(resp.StatusCode)}
		if resp.Error != nil && resp.Error.Message != "" {
			r.Err = errors.New(resp.Error.Message)
		}
		ch <- r
	}()
	return ch, nil
}

// WaitResult is the end of a container: its exit code, or why that is not known.
type WaitResult struct {
	StatusCode int
	Err        error
}

// hangUp gives the end of file in mid-answer the name of its usual cause.
func hangUp(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the daemon hung up: %w", err)
	}
	return err
}

// ContainerTop lists the processes of a container, in the columns of ps.
func (c *Client) ContainerTop(ctx context.Context, name string, psArgs []string) (container.TopResponse, error) {
	q := url.Values{}
	setString(q, "ps_args", strings.Join(psArgs, " "))
	var out container.TopResponse
	err := c.call(ctx, request{method: http.MethodGet, path: containerPath(name, "/top"), query: q}, &out)
	return out, err
}

// ContainerStats opens a stream of container.StatsResponse; one sample if stream is false.
func (c *Client) ContainerStats(ctx context.Context, name string, stream bool) (io.ReadCloser, error) {
	q := url.Values{"stream": {"0"}}
	if stream {
		q.Set("stream", "1")
	}
	return c.stream(ctx, request{method: http.MethodGet, path: containerPath(name, "/stats"), query: q})
}

// ContainerDiff lists what the container changed in its root file system.
func (c *Client) ContainerDiff(ctx context.Context, name string) ([]container.FilesystemChange, error) {
	var out []container.FilesystemChange
	err := c.call(ctx, request{method: http.MethodGet, path: containerPath(name, "/changes")}, &out)
	return out, err
}

// ContainerExport opens the root file system as a tar stream.
func (c *Client) ContainerExport(ctx context.Context, name string) (io.ReadCloser, error) {
	return c.stream(ctx, request{method: http.MethodGet, path: containerPath(name, "/export")})
}

// ContainersPrune removes stopped containers.
func (c *Client) ContainersPrune(ctx context.Context, f Filters) (container.PruneReport, error) {
	var out container.PruneReport
	err := c.call(ctx, request{method: http.MethodPost, path: "/containers/prune", query: f.query()}, &out)
	return out, err
}

// CommitContainer describes the image to make of a container.
type CommitContainer struct {
	Repository, Tag, Comment, Author string
	Changes                          []string
	Pause                            bool
}

// ContainerCommit makes an image of a container and returns its id.
func (c *Client) ContainerCommit(ctx context.Context, name string, opts CommitContainer) (string, error) {
	q := url.Values{"container": {name}}
	setString(q, "repo", opts.Repository)
	setString(q, "tag", opts.Tag)
	setString(q, "comment", opts.Comment)
	setString(q, "author", opts.Author)
	for _, ch := range opts.Changes {
		q.Add("changes", ch)
	}
	if !opts.Pause {
		q.Set("pause", "0")
	}
	var out container.CommitResponse
	err := c.call(ctx, request{method: http.MethodPost, path: "/commit", query: q}, &out)
	return out.ID, err
}
