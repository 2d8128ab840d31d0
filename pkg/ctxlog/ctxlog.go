package ctxlog

import (
	"context"
	"io"
	"log/slog"
)

// The keys of log attributes. A new one is added here or not used.
const (
	Address     = "address"
	Component   = "component"
	ContainerID = "container_id"
	Digest      = "digest"
	Duration    = "duration"
	Error       = "error"
	ExecID      = "exec_id"
	ExitCode    = "exit_code"
	Image       = "image"
	Method      = "method"
	Name        = "name"
	Namespace   = "namespace"
	Network     = "network"
	Path        = "path"
	PID         = "pid"
	Signal      = "signal"
	Snapshot    = "snapshot"
	Socket      = "socket"
	Status      = "status"
	TaskID      = "task_id"
	Topic       = "topic"
	Trace       = "trace"
	Volume      = "volume"
)

type key struct{}

// With returns a context whose logger is l.
func With(ctx context.Context, l *slog.Logger) context.Context {
	return context.WithValue(ctx, key{}, l)
}

// WithAttrs returns a context whose logger adds args to each record.
func WithAttrs(ctx context.Context, args ...any) context.Context {
	return With(ctx, From(ctx).With(args...))
}

// From returns the logger of ctx, or slog.Default.
func From(ctx context.Context) *slog.Logger {
	if l, ok := ctx.Value(key{}).(*slog.Logger); ok {
		return l
	}
	return slog.Default()
}

// New returns the logger of a process: text lines on w from level on, each with the
// component's name.
func New(w io.Writer, component string, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})).With(Component, component)
}
