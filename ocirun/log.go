package ocirun

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// logHandler writes records as runc's logger does, because callers read them: one JSON
// object a line with level, msg and time, or the same as key=value words.
type logHandler struct {
	w     io.Writer
	json  bool
	level slog.Level
	attrs []slog.Attr
}

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(append([]slog.Attr{}, h.attrs...), attrs...)
	return &c
}

// WithGroup ignores groups: nothing here uses them.
func (h *logHandler) WithGroup(string) slog.Handler { return h }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	level := strings.ToLower(r.Level.String())
	if r.Level == slog.LevelWarn {
		level = "warning"
	}
	at := r.Time.Format(time.RFC3339)
	attrs := h.attrs
	r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a); return true })
	var b bytes.Buffer
	if h.json {
		fmt.Fprintf(&b, `{"level":%s,"msg":%s,"time":%s`, quote(level), quote(r.Message), quote(at))
		for _, a := range attrs {
			fmt.Fprintf(&b, `,%s:%s`, quote(a.Key), quote(a.Value.String()))
		}
		b.WriteString("}\n")
	} else {
		fmt.Fprintf(&b, "time=%q level=%s msg=%q", at, level, r.Message)
		for _, a := range attrs {
			fmt.Fprintf(&b, " %s=%q", a.Key, a.Value.String())
		}
		b.WriteByte('\n')
	}
	_, err := h.w.Write(b.Bytes())
	return err
}

func quote(s string) string {
	b, _ := json.Marshal(s) // a string always encodes
	return string(b)
}
