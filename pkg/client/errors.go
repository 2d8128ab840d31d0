package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
)

// Error is an answer of the daemon with a status of 400 or above. It wraps the class of
// containerd/errdefs that belongs to the status.
type Error struct {
	Status  int
	Message string // as the daemon wrote it
}

// Error says who speaks, as docker's own client does: scripts match on the prefix.
func (e *Error) Error() string { return "Error response from daemon: " + e.Message }

// Unwrap returns the error class of the status.
func (e *Error) Unwrap() error { return classOf(e.Status) }

func classOf(status int) error {
	switch status {
	case http.StatusBadRequest:
		return errdefs.ErrInvalidArgument
	case http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusConflict:
		return errdefs.ErrConflict
	case http.StatusNotImplemented:
		return errdefs.ErrNotImplemented
	case http.StatusServiceUnavailable:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrUnknown
}

// ConnectError says that the daemon could not be reached, or hung up before it answered.
type ConnectError struct {
	Host string
	Err  error
}

// Error names the address and what to do about it.
func (e *ConnectError) Error() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return fmt.Sprintf("permission denied while connecting to the engine at %s: %v\n"+
			"add your user to the group that owns the socket, or run as root", e.Host, e.Err)
	}
	return fmt.Sprintf("cannot connect to the engine at %s: is engined running? (%v)\n%s", e.Host, e.Err, remedy(e.Host))
}

// Unwrap makes a ConnectError one of class ErrUnavailable, and keeps its cause.
func (e *ConnectError) Unwrap() []error { return []error{errdefs.ErrUnavailable, e.Err} }

func remedy(host string) string {
	switch {
	case host == DefaultHost:
		return "start it with 'systemctl start engined', or name another daemon with -H or STRATA_HOST"
	case strings.HasPrefix(host, "unix://"):
		return "start the daemon of that socket, or name another one with -H, STRATA_HOST or DOCKER_HOST"
	case strings.HasPrefix(host, "ssh://"):
		return "check 'ssh " + strings.TrimPrefix(host, "ssh://") + " docker version'"
	}
	return "check the address, the port and --tlsverify"
}

// maxErrorBody bounds what is read of an answer that reports an error.
const maxErrorBody = 64 << 10

// checkStatus turns an error answer into *Error and closes its body.
func checkStatus(resp *http.Response) error {
	if resp.StatusCode < 400 {
		return nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return fmt.Errorf("read error answer (%s): %w", resp.Status, err)
	}
	return &Error{Status: resp.StatusCode, Message: errorMessage(resp, body)}
}

func errorMessage(resp *http.Response, body []byte) string {
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		var m struct{ Message string }
		if json.Unmarshal(body, &m) == nil && m.Message != "" {
			return strings.TrimSpace(m.Message)
		}
	}
	if text := strings.TrimSpace(string(body)); text != "" {
		return text
	}
	return fmt.Sprintf("request returned %s without a message", resp.Status)
}
