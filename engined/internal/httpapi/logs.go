package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"strata/engined/internal/containers"
)

// logReader reads container logs.
type logReader interface {
	// Copy writes the records of the log at path that match r to w, in the API's form,
	// and with r.Follow those to come until running is closed and all was read.
	Copy(ctx context.Context, w io.Writer, path string, r LogQuery) error
}

// LogQuery says which records of a log a client wants, and in which form.
type LogQuery struct {
	Stdout, Stderr bool
	Timestamps     bool
	Details        bool
	Framed         bool // stdcopy frames, else plain text
	Tail           int  // the last so many lines; negative: all
	Since, Until   time.Time
	Follow         bool
	// Done is closed when nothing more will be written to the log.
	Done <-chan struct{}
}

type logRequest struct {
	stdout, stderr, timestamps, details, follow, framed bool
	tail                                                int
	since, until                                        time.Time
}

func parseLogRequest(r *request) (logRequest, error) {
	req := logRequest{
		stdout: r.Bool("stdout"), stderr: r.Bool("stderr"), timestamps: r.Bool("timestamps"), details: r.Bool("details"), follow: r.Bool("follow"), tail: -1,
	}
	if !req.stdout && !req.stderr {
		return req, invalid("Bad parameters: you must choose at least one stream")
	}
	if v := r.Query("tail"); v != "" && v != "all" {
		if n, err := strconv.Atoi(v); err == nil && n >= 0 {
			req.tail = n
		}
	}
	var err error
	if req.since, err = parseTimestamp(r.Query("since")); err != nil {
		return req, err
	}
	req.until, err = parseTimestamp(r.Query("until"))
	return req, err
}

// copyLogs writes a container's log to w. Following ends when the container does not run
// any more and will not by itself.
func (a containersAPI) copyLogs(ctx context.Context, w io.Writer, c *containers.Container, r logRequest) error {
	q := LogQuery{
		Stdout: r.stdout, Stderr: r.stderr, Timestamps: r.timestamps, Details: r.details, Framed: r.framed, Tail: r.tail,
		Since: r.since, Until: r.until, Follow: r.follow,
	}
	if r.follow {
		ended, cancel := a.svc.Ended(ctx, c)
		defer cancel()
		q.Done = ended
	}
	if err := a.logs.Copy(ctx, w, a.svc.LogPath(c.ID), q); err != nil {
		return fmt.Errorf("read log of container %s: %w", c.ID, err)
	}
	return nil
}

// flushWriter sends what it has whenever the reader of a log has nothing more at hand.
type flushWriter struct {
	*bufio.Writer
	rc *http.ResponseController
}

// Flush sends everything to the client.
func (f *flushWriter) Flush() error {
	if err := f.Writer.Flush(); err != nil {
		return err
	}
	return f.rc.Flush()
}
