package httpapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"strata/pkg/buildkit/controlpb"
	"strata/pkg/identifiers"
)

// IDs of the messages of POST /build, version 2.
const (
	traceID = "moby.buildkit.trace" // aux: a StatusResponse, in base64
	imageID = "moby.image.id"       // aux: {"ID": …}
)

// session hands the connection to a session, on which the client is the server.
func (a buildAPI) session(w http.ResponseWriter, r *request) error {
	conn, err := upgrade(w, r, "h2c")
	if err != nil {
		return err
	}
	return a.kit.ServeSession(r.Context(), conn, r.Header)
}

// grpc hands the connection to BuildKit's services.
func (a buildAPI) grpc(w http.ResponseWriter, r *request) error {
	conn, err := upgrade(w, r, "h2c")
	if err != nil {
		return err
	}
	return a.kit.ServeGRPC(r.Context(), conn)
}

// cancel ends a build of version 2; a classic one is cancelled by hanging up.
func (a buildAPI) cancel(w http.ResponseWriter, r *request) error {
	if r.Query("id") == "" {
		return fmt.Errorf("build ID not provided: %w", errdefs.ErrInvalidArgument)
	}
	if err := a.kit.Cancel(r.Query("id")); err != nil && !errdefs.IsNotFound(err) { // it may have ended
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// buildByKit is POST /build of version 2: a build of BuildKit's, whose options are in the
// query, and whose context is the session's, the body, or a URL.
func (a buildAPI) buildByKit(w http.ResponseWriter, r *request) error {
	req, err := kitRequest(r)
	if err != nil {
		return err
	}
	body := io.Reader(r.Body)
	if r.Query("remote") != "" {
		body = nil
	}
	// The story begins while the context is being read.
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		return fmt.Errorf("answer while reading: %w", err)
	}
	out := newProgressStream(w, r)
	resp, err := a.kit.Solve(r.Context(), req, body, func(e *controlpb.StatusResponse) error {
		raw, err := proto.Marshal(e)
		if err == nil {
			out.write(progressMessage{ID: traceID, Aux: raw})
		}
		return err
	})
	if err != nil {
		out.write(progressMessage{Error: &progressError{Message: err.Error()}, Message: err.Error()})
		return nil //nolint:nilerr // the stream has told it
	}
	if id := resp["containerimage.config.digest"]; id != "" {
		out.write(progressMessage{ID: imageID, Aux: map[string]string{"ID": id}})
	}
	return out.end(nil)
}

// kitRequest makes BuildKit's request of the query.
func kitRequest(r *request) (*controlpb.SolveRequest, error) {
	q := r.URL.Query()
	attrs := map[string]string{"image-resolve-mode": "local"}
	req := &controlpb.SolveRequest{Ref: q.Get("buildid"), Session: q.Get("session"), Frontend: "dockerfile.v0", FrontendAttrs: attrs}
	if req.Ref == "" {
		req.Ref = identifiers.New()
	}
	for key, attr := range map[string]string{
		"dockerfile": "filename", "target": "target", "platform": "platform", "cgroupparent": "cgroup-parent", "shmsize": "shm-size",
	} {
		if v := q.Get(key); v != "" && v != "0" {
			attrs[attr] = v
		}
	}
	if remote := q.Get("remote"); remote != "" && remote != "client-session" {
		attrs["context"] = remote
	}
	if r.Bool("pull") {
		attrs["image-resolve-mode"] = "pull"
	}
	if r.Bool("nocache") {
		attrs["no-cache"] = ""
	}
	switch n := q.Get("networkmode"); n {
	case "", "default":
	case "host":
		attrs["force-network-mode"] = n
		req.Entitlements = append(req.Entitlements, "network.host")
	default:
		attrs["force-network-mode"] = n
	}
	hosts := make([]string, 0, len(q["extrahosts"]))
	for _, h := range q["extrahosts"] {
		hosts = append(hosts, strings.Replace(h, ":", "=", 1))
	}
	attrs["add-hosts"] = strings.Join(hosts, ",")
	if err := kitMaps(q, attrs); err != nil {
		return nil, err
	}
	return req, kitOutputs(q, req)
}

// kitMaps adds the options that are JSON.
func kitMaps(q url.Values, attrs map[string]string) error {
	var args, labels map[string]*string
	var caches []string
	if err := queryJSON(q, "buildargs", &args); err != nil {
		return err
	}
	if err := queryJSON(q, "labels", &labels); err != nil {
		return err
	}
	if err := queryJSON(q, "cachefrom", &caches); err != nil {
		return err
	}
	for prefix, m := range map[string]map[string]*string{"build-arg:": args, "label:": labels} {
		for k, v := range m {
			if v != nil {
				attrs[prefix+k] = *v
			}
		}
	}
	attrs["cache-from"] = strings.Join(caches, ",")
	res, err := buildResources(q)
	for _, u := range res.Ulimits {
		attrs["ulimit"] = strings.TrimPrefix(fmt.Sprintf("%s,%s=%d:%d", attrs["ulimit"], u.Name, u.Soft, u.Hard), ",")
	}
	return err
}

// kitOutputs are what outputs say, or an image with the names of t.
func kitOutputs(q url.Values, req *controlpb.SolveRequest) error {
	var list []struct {
		Type  string
		Attrs map[string]string
	}
	if text := q.Get("outputs"); text != "" && text != "null" {
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return fmt.Errorf("outputs: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	for _, o := range list {
		req.Exporters = append(req.Exporters, &controlpb.Exporter{Type: o.Type, Attrs: o.Attrs})
	}
	if len(req.Exporters) == 0 {
		req.Exporters = []*controlpb.Exporter{{Type: "moby", Attrs: map[string]string{"name": strings.Join(q["t"], ",")}}}
	}
	return nil
}
