package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"strata/pkg/ctxlog"
)

// The span of API versions.
const (
	MinVersion     = "1.24"
	DefaultVersion = "1.51"
)

// maxBody bounds a JSON request body, in bytes.
const maxBody = 8 << 20

// handler answers one request. An error that it returns before it wrote anything
// becomes an error body with the status of its class.
type handler func(w http.ResponseWriter, r *request) error

// route is a row of the table. A pattern is a path with {name} for one segment and
// {name...} for any number of them.
type route struct {
	method  string
	pattern string
	handle  handler
}

// request is an HTTP request with what the router found out about it.
type request struct {
	*http.Request
	Version string // API version asked for, "1.43"

	vars map[string]string
}

// Var returns the value of a {name} in the route's pattern.
func (r *request) Var(name string) string { return r.vars[name] }

// Bool returns a boolean of the query: anything but "", 0, no, false and none is true.
func (r *request) Bool(name string) bool {
	switch strings.ToLower(strings.TrimSpace(r.URL.Query().Get(name))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// Query returns a value of the query.
func (r *request) Query(name string) string { return r.URL.Query().Get(name) }

// AtLeast reports whether the client speaks API version v or a newer one.
func (r *request) AtLeast(v string) bool { return compareVersions(r.Version, v) >= 0 }

// Decode reads the JSON body into v: one value, at most 8 MiB. Errors are of class
// ErrInvalidArgument. With an empty body v stays as it is and io.EOF is returned.
func (r *request) Decode(v any) error {
	if r.Body == nil || r.ContentLength == 0 {
		return io.EOF
	}
	if ct := r.Header.Get("Content-Type"); ct != "" || r.ContentLength > 0 {
		if media, _, err := mime.ParseMediaType(ct); err != nil || media != "application/json" {
			return fmt.Errorf("unsupported Content-Type header (%s): must be 'application/json': %w", ct, errdefs.ErrInvalidArgument)
		}
	}
	dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	if err := dec.Decode(v); err != nil {
		var tooLarge *http.MaxBytesError
		switch {
		case errors.Is(err, io.EOF):
			return io.EOF
		case errors.As(err, &tooLarge):
			return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("request body is larger than %d bytes", maxBody)}
		}
		return fmt.Errorf("invalid JSON: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("unexpected content after JSON: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// statusError is an error with the status that dockerd answers, where that is not the
// one of its class.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string { return e.message }

// statusOf returns the HTTP status of an error.
func statusOf(err error) int {
	var se *statusError
	switch {
	case errors.As(err, &se):
		return se.status
	case errdefs.IsNotFound(err):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err), errdefs.IsOutOfRange(err):
		return http.StatusBadRequest
	case errdefs.IsAlreadyExists(err), errdefs.IsConflict(err), errdefs.IsAborted(err):
		return http.StatusConflict
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsUnavailable(err):
		return http.StatusServiceUnavailable
	case errdefs.IsNotImplemented(err):
		return http.StatusNotImplemented
	default:
		return http.StatusInternalServerError
	}
}

// classes are the sentences that error classes add to a message; people do not need them.
// ErrNotImplemented says something, and stays.
var classes = []error{
	errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrAlreadyExists, errdefs.ErrConflict, errdefs.ErrFailedPrecondition,
	errdefs.ErrPermissionDenied, errdefs.ErrUnauthenticated, errdefs.ErrUnavailable, errdefs.ErrResourceExhausted,
}

// message returns the text of err for a person: without the name of its class.
func message(err error) string {
	s := err.Error()
	for _, c := range classes {
		if errors.Is(err, c) { // a runtime's own "permission denied" is no class
			s = strings.TrimSuffix(s, ": "+c.Error())
		}
	}
	return s
}

// writeJSON answers with v as JSON, without escaping HTML and with a final newline.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

type errorBody struct {
	Message string `json:"message"`
}

// writeError answers with the status and body of err.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		ctxlog.From(r.Context()).Error("request failed", ctxlog.Method, r.Method, ctxlog.Path, r.URL.Path, ctxlog.Status, status, ctxlog.Error, err)
	}
	_ = writeJSON(w, status, errorBody{message(err)}) // the client is gone if this fails
}

// trackingWriter knows whether the answer has begun.
type trackingWriter struct {
	http.ResponseWriter
	began bool
}

func (w *trackingWriter) WriteHeader(status int) {
	w.began = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *trackingWriter) Write(p []byte) (int, error) {
	w.began = true
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find Flush and Hijack.
func (w *trackingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// compiled is a route ready to be matched.
type compiled struct {
	route
	re    *regexp.Regexp
	names []string
}

var (
	versionPrefix = regexp.MustCompile(`^/v([0-9][0-9.]*)(/.*)$`)
	placeholder   = regexp.MustCompile(`\{([a-z]+)(\.\.\.)?\}`)
)

func compile(r route) compiled {
	c := compiled{route: r}
	pattern := placeholder.ReplaceAllStringFunc(r.pattern, func(m string) string {
		sub := placeholder.FindStringSubmatch(m)
		c.names = append(c.names, sub[1])
		if sub[2] != "" {
			return "(.+)"
		}
		return "([^/]+)"
	})
	c.re = regexp.MustCompile("^" + pattern + "$")
	return c
}

// router finds the handler of a request, negotiates its version and turns errors into
// answers.
type router struct {
	routes []compiled
	header http.Header // set on each answer
}

func newRouter(header http.Header, tables ...[]route) *router {
	rt := &router{header: header}
	for _, table := range tables {
		for _, r := range table {
			rt.routes = append(rt.routes, compile(r))
		}
	}
	return rt
}

// ServeHTTP implements http.Handler.
func (rt *router) ServeHTTP(rw http.ResponseWriter, hr *http.Request) {
	w := &trackingWriter{ResponseWriter: rw}
	maps.Copy(w.Header(), rt.header)
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			ctxlog.From(hr.Context()).Error("handler panicked", ctxlog.Path, hr.URL.Path, ctxlog.Error, p, "stack", string(debug.Stack()))
			if !w.began {
				writeError(w, hr, fmt.Errorf("internal error: %v", p))
			}
		}
	}()
	if hr.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	r, path, err := negotiate(hr)
	if err != nil {
		writeError(w, hr, err)
		return
	}
	handle := rt.find(r, path)
	if err := handle(w, r); err != nil {
		if w.began {
			ctxlog.From(hr.Context()).Debug("answer broke off", ctxlog.Path, path, ctxlog.Error, err)
			panic(http.ErrAbortHandler) // closes the connection: half an answer must not look whole
		}
		writeError(w, hr, err)
	}
}

// negotiate splits the version from the path.
func negotiate(hr *http.Request) (*request, string, error) {
	r, path := &request{Request: hr, Version: DefaultVersion}, hr.URL.Path
	m := versionPrefix.FindStringSubmatch(path)
	if m == nil {
		return r, path, nil
	}
	r.Version = m[1]
	if compareVersions(r.Version, MinVersion) < 0 {
		return nil, "", fmt.Errorf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version: %w", r.Version, MinVersion, errdefs.ErrInvalidArgument)
	}
	if compareVersions(r.Version, DefaultVersion) > 0 {
		return nil, "", fmt.Errorf("client version %s is too new. Maximum supported API version is %s: %w", r.Version, DefaultVersion, errdefs.ErrInvalidArgument)
	}
	return r, m[2], nil
}

// find returns the handler of path, or one that answers 404 or 405.
func (rt *router) find(r *request, path string) handler {
	otherMethod := false
	for i := range rt.routes {
		c := &rt.routes[i]
		m := c.re.FindStringSubmatch(path)
		if m == nil {
			continue
		}
		if c.method != r.Method {
			otherMethod = true
			continue
		}
		r.vars = map[string]string{}
		for j, name := range c.names {
			r.vars[name] = m[j+1]
		}
		return c.handle
	}
	status, text := http.StatusNotFound, "page not found"
	if otherMethod {
		status, text = http.StatusMethodNotAllowed, fmt.Sprintf("method %s is not allowed for %s", r.Method, path)
	}
	return func(http.ResponseWriter, *request) error { return &statusError{status, text} }
}

// compareVersions compares dotted numbers.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		var x, y int
		if i < len(as) {
			x, _ = strconv.Atoi(as[i])
		}
		if i < len(bs) {
			y, _ = strconv.Atoi(bs[i])
		}
		if x != y {
			if x < y {
				return -1
			}
			return 1
		}
	}
	return 0
}
