package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"strata/engined/internal/containers"
	"strata/engined/internal/logs"
	"strata/pkg/stdcopy"
)

// logRequest says which lines of a log a client wants, and in which form.
type logRequest struct {
	logs.Options
	timestamps, details bool
	framed              bool // stdcopy frames, else plain text
}

func parseLogRequest(r *request) (logRequest, error) {
	req := logRequest{
		Options:    logs.Options{Stdout: r.Bool("stdout"), Stderr: r.Bool("stderr"), Follow: r.Bool("follow"), Tail: logs.All},
		timestamps: r.Bool("timestamps"), details: r.Bool("details"),
	}
	if !req.Stdout && !req.Stderr {
		return req, invalid("Bad parameters: you must choose at least one stream")
	}
	if v := r.Query("tail"); v != "" && v != "all" {
		if n, err := strconv.Atoi(v); err == nil && n >= 0 {
			req.Tail = n
		}
	}
	var err error
	if req.Since, err = parseTimestamp(r.Query("since")); err != nil {
		return req, err
	}
	req.Until, err = parseTimestamp(r.Query("until"))
	return req, err
}

// readLogs answers with a container's log, framed unless it has a terminal.
func (a containersAPI) readLogs(w http.ResponseWriter, r *request) error {
	c, err := a.svc.Get(r.Var("name"))
	if err != nil {
		return err
	}
	req, err := parseLogRequest(r)
	if err != nil {
		return err
	}
	tty := c.Definition().Config.Tty
	req.framed = !tty
	media := mediaRaw
	if !tty && r.AtLeast("1.42") {
		media = mediaMultiplexed
	}
	if c.Definition().Host.LogConfig.Type == "none" {
		return &statusError{http.StatusNotImplemented, "configured logging driver does not support reading"}
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		return err
	}
	err = a.copyLogs(r.Context(), &pushWriter{w, rc, req.Follow}, c, req)
	if errors.Is(err, context.Canceled) {
		return nil // the client has seen enough
	}
	return err
}

// pushWriter sends every write of a follower to the client at once.
type pushWriter struct {
	io.Writer
	rc   *http.ResponseController
	push bool
}

func (p *pushWriter) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	if err == nil && p.push {
		err = p.rc.Flush()
	}
	return n, err
}

// copyLogs writes a container's log to w. Following ends with the container's run.
func (a containersAPI) copyLogs(ctx context.Context, w io.Writer, c *containers.Container, r logRequest) error {
	if r.Follow {
		ended, cancel := a.svc.Ended(ctx, c)
		defer cancel()
		r.Done = ended
	}
	f := logFormat{logRequest: r, partial: map[string]bool{}}
	err := logs.Read(ctx, a.svc.LogPath(c.ID), r.Options, func(l logs.Line) error {
		_, err := w.Write(f.line(l))
		return err
	})
	if err != nil {
		return fmt.Errorf("read log of container %s: %w", c.ID, err)
	}
	return nil
}

// logFormat gives lines the form that a client asked for.
type logFormat struct {
	logRequest
	buf     []byte          // of the last line
	partial map[string]bool // streams in the middle of a line
}

// line returns the bytes of one record, valid until the next call.
func (f *logFormat) line(l logs.Line) []byte {
	var prefix []byte
	if !f.partial[l.Stream] {
		if f.timestamps {
			prefix = append(l.Time.UTC().AppendFormat(prefix, "2006-01-02T15:04:05.000000000Z07:00"), ' ')
		}
		if f.details {
			prefix = append(prefix, details(l.Attrs)...)
			prefix = append(prefix, ' ')
		}
	}
	f.partial[l.Stream] = !bytes.HasSuffix(l.Text, []byte("\n"))
	f.buf = f.buf[:0]
	if f.framed {
		stream := stdcopy.Stdout
		switch {
		case l.Marker:
			stream = stdcopy.SystemErr
		case l.Stream == "stderr":
			stream = stdcopy.Stderr
		}
		f.buf = stdcopy.AppendHeader(f.buf, stream, len(prefix)+len(l.Text))
	}
	f.buf = append(f.buf, prefix...)
	f.buf = append(f.buf, l.Text...)
	return f.buf
}

// details are a line's attributes as "k=v,k=v".
func details(attrs map[string]string) string {
	var out []string
	for k, v := range attrs {
		out = append(out, url.QueryEscape(k)+"="+url.QueryEscape(v))
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}
