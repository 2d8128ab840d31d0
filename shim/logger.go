package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"strata/pkg/shimio"
	"strata/shim/internal/stdio"
)

// Descriptors that a foreign shim gives to a logger.
const (
	loggerStdout = 3
	loggerStderr = 4
	loggerReady  = 5
)

// Logger holds the streams of a process under a foreign shim: args are "KEY VALUE" pairs
// of shimio.URI.Binary. It serves the log file and the attach socket until the process's
// output has ended and every client has it.
//
// The foreign shim must be told CloseIO once: it holds the stdin pipe open too, and the
// process sees the end of stdin only when both have let go.
func Logger(ctx context.Context, args []string) error {
	uri, err := shimio.ParseArgs(args)
	if err != nil {
		return err
	}
	ignoreBrokenPipes()
	// A shim sends SIGTERM when it closes the streams; their end comes with it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	holder, err := stdio.Hold(ctx, uri, loggerStdout, loggerStderr)
	if err != nil {
		return err
	}
	ready := os.NewFile(loggerReady, "ready")
	// One byte and the end: what both generations of the protocol wait for.
	if _, err := ready.Write([]byte{0}); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("tell that the logger is ready: %w", err)
	}
	if err := ready.Close(); err != nil {
		return fmt.Errorf("tell that the logger is ready: %w", err)
	}
	return holder.Run(ctx)
}
