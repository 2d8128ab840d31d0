package shims

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"strata/pkg/ctxlog"
	"strata/pkg/linux/fifo"
)

// shimLog copies the lines that a shim writes to the FIFO "log" of its bundle to our
// log.
type shimLog struct {
	file *os.File
	done sync.WaitGroup
}

// openLog makes the FIFO, if it is missing, and begins to read it.
func openLog(ctx context.Context, b *Bundle) (*shimLog, error) {
	path := filepath.Join(b.Path, "log")
	if err := fifo.Make(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make log of shim: %w", err)
	}
	// Both ends, so that it has no end of file when a shim is replaced.
	f, err := fifo.OpenBoth(path)
	if err != nil {
		return nil, fmt.Errorf("open log of shim: %w", err)
	}
	l := &shimLog{file: f}
	logger := ctxlog.From(ctx).With(ctxlog.Namespace, b.Namespace, ctxlog.TaskID, b.ID)
	l.done.Go(func() {
		lines := bufio.NewReaderSize(f, 4096)
		for {
			line, _, err := lines.ReadLine()
			if err != nil {
				return
			}
			if len(line) > 0 {
				logger.Log(context.WithoutCancel(ctx), levelOf(string(line)), "shim wrote", "line", string(line))
			}
		}
	})
	return l, nil
}

// levelOf finds "level=x" as logrus and slog write it. What shims call info is a
// developer's trace to the operator of a daemon with a thousand of them.
func levelOf(line string) slog.Level {
	_, rest, ok := strings.Cut(line, "level=")
	if !ok {
		return slog.LevelInfo
	}
	word, _, _ := strings.Cut(rest, " ")
	switch strings.ToLower(word) {
	case "trace", "debug", "info":
		return slog.LevelDebug
	case "warning", "warn":
		return slog.LevelWarn
	case "error", "fatal", "panic":
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

// Close ends the reader and waits for it.
func (l *shimLog) Close() error {
	err := l.file.Close()
	l.done.Wait()
	return err
}
