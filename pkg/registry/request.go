package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strata/pkg/ctxlog"
)

// Retries: how often, how long apart, and how long a registry may ask us to wait.
const (
	maxAttempts   = 6
	firstBackoff  = 200 * time.Millisecond
	maxBackoff    = 10 * time.Second
	maxRetryAfter = 60 * time.Second
)

// maxErrorBody bounds what is read of an error answer, in bytes.
const maxErrorBody = 64 << 10

// call is one request of the distribution API, repeatable.
type call struct {
	method string
	path   string // below /v2/NAME, or absolute if url is set
	url    *url.URL
	query  url.Values
	header http.Header
	body   func() (io.Reader, error) // nil for none; called once per attempt
	size   int64                     // of the body, in bytes
	scopes []string
}

// Error is a registry's refusal.
type Error struct {
	Status  int    // HTTP
	Code    string // of the distribution specification, "MANIFEST_UNKNOWN"; may be empty
	Message string
	URL     string // without query

	retryAfter time.Duration
}

// Error returns the words that docker uses: "manifest unknown: manifest unknown".
func (e *Error) Error() string {
	if e.Code == "" {
		text := e.Message
		if text == "" {
			text = http.StatusText(e.Status)
		}
		return fmt.Sprintf("%s: %d %s", e.URL, e.Status, text)
	}
	return strings.ToLower(strings.ReplaceAll(e.Code, "_", " ")) + ": " + e.Message
}

// Unwrap returns the class of the status.
func (e *Error) Unwrap() error {
	switch {
	case e.Status == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case e.Status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case e.Status == http.StatusNotFound:
		return errdefs.ErrNotFound
	case e.Status == http.StatusRequestedRangeNotSatisfiable:
		return errdefs.ErrOutOfRange
	case e.transient():
		return errdefs.ErrUnavailable
	case e.Status >= 400 && e.Status < 500:
		return errdefs.ErrInvalidArgument
	}
	return errdefs.ErrUnknown
}

// transient reports whether the same request may succeed later.
func (e *Error) transient() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// statusError reads the errors of the distribution specification from an answer.
func statusError(resp *http.Response, body []byte) *Error {
	u := *resp.Request.URL
	u.RawQuery, u.User = "", nil
	e := &Error{Status: resp.StatusCode, URL: u.String(), retryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	var parsed struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // token services
	}
	if json.Unmarshal(body, &parsed) == nil {
		if len(parsed.Errors) > 0 {
			e.Code, e.Message = parsed.Errors[0].Code, parsed.Errors[0].Message
		} else {
			e.Message = parsed.Details
		}
	}
	return e
}

func retryAfter(v string) time.Duration {
	if s, err := strconv.Atoi(strings.TrimSpace(v)); err == nil && s >= 0 {
		return min(time.Duration(s)*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(time.Until(t), 0), maxRetryAfter)
	}
	return 0
}

// classify gives an error of the network its class.
func classify(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}

// transient reports whether err may pass; what a person has to mend does not.
func transient(err error) bool {
	var e *Error
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.As(err, &e):
		return e.transient()
	case errors.As(err, &cert), errors.Is(err, http.ErrSchemeMismatch):
		return false
	case errors.As(err, &dns):
		return dns.IsTemporary || dns.IsTimeout
	}
	return errdefs.IsUnavailable(err)
}

// backoff decides whether there is another attempt, and waits for it.
type backoff struct {
	attempt int
	limit   int
}

// next waits after err; false means that err is final.
func (b *backoff) next(ctx context.Context, err error) bool {
	b.attempt++
	limit := b.limit
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) || errors.As(err, new(*net.DNSError)) {
		limit = min(limit, 3)
	}
	if b.attempt >= limit || !transient(err) {
		return false
	}
	wait := min(firstBackoff<<(b.attempt-1), maxBackoff)
	wait = wait/2 + rand.N(wait/2+1)
	var e *Error
	if errors.As(err, &e) && e.retryAfter > 0 {
		wait = e.retryAfter
	}
	ctxlog.From(ctx).Debug("retrying registry request", "attempt", b.attempt, "wait", wait, ctxlog.Error, err)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// each runs fn on the hosts that can, until one succeeds. The error is that of the last
// one, which is the registry itself.
func (r *Repository) each(ctx context.Context, can capability, fn func(h host, attempts int) error) error {
	err := fmt.Errorf("no host of registry %s is configured for this: %w", r.ref.Domain, errdefs.ErrFailedPrecondition)
	for i, h := range r.hosts {
		if h.can&can != can {
			continue
		}
		attempts := maxAttempts
		if i < len(r.hosts)-1 {
			attempts = 2
		}
		if err = fn(h, attempts); err == nil || ctx.Err() != nil {
			return err
		}
		if i < len(r.hosts)-1 {
			ctxlog.From(ctx).Info("registry host did not answer, trying the next", ctxlog.Address, h.base.Host, ctxlog.Error, err)
		}
	}
	return err
}

// do sends c to h until it is answered with 2xx or 3xx, or for good. The caller closes
// the body.
func (r *Repository) do(ctx context.Context, h host, c call, attempts int) (*http.Response, error) {
	b := backoff{limit: attempts}
	for {
		resp, err := r.once(ctx, h, c)
		if err == nil || !b.next(ctx, err) {
			return resp, err
		}
	}
}

// once sends c, and again with an answer if it is challenged.
func (r *Repository) once(ctx context.Context, h host, c call) (*http.Response, error) {
	for challenged := 0; ; challenged++ {
		resp, err := r.send(ctx, h, c)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 400 {
			return resp, nil
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // the status says enough
		_ = resp.Body.Close()
		refusal := statusError(resp, body)
		if resp.StatusCode != http.StatusUnauthorized || challenged > 1 || !h.owns(resp.Request.URL) {
			return nil, refusal
		}
		again, err := r.auth.challenged(ctx, h, resp, c.scopes)
		if err != nil {
			return nil, err
		}
		if !again {
			return nil, refusal
		}
	}
}

func (r *Repository) send(ctx context.Context, h host, c call) (*http.Response, error) {
	u := h.base.JoinPath(r.ref.Path, c.path)
	if c.url != nil {
		u = c.url
	}
	q := u.Query()
	maps.Copy(q, c.query)
	if h.mirror && c.url == nil {
		q.Set("ns", r.ref.Domain)
	}
	full := *u
	full.RawQuery = q.Encode()
	var body io.Reader
	if c.body != nil {
		var err error
		if body, err = c.body(); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, c.method, full.String(), body)
	if err != nil {
		return nil, fmt.Errorf("registry request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if c.body != nil {
		req.ContentLength = c.size
		if c.size == 0 {
			req.Body = http.NoBody
		}
	}
	maps.Copy(req.Header, c.header)
	req.Header.Set("User-Agent", r.agent)
	if c.url == nil || h.owns(c.url) {
		maps.Copy(req.Header, h.header)
		maps.Copy(req.Header, r.extra)
		if err := r.auth.apply(ctx, h, req, c.scopes); err != nil {
			return nil, err
		}
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, classify(err)
	}
	return resp, nil
}
