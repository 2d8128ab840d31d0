package main

import (
	"context"
	"os"
)

func main() {
	s := newSession(os.Stdin, os.Stdout, os.Stderr)
	ctx, stop := s.signals.watch(context.Background())
	status := newApp(s).Run(ctx, os.Args[1:])
	if sig := s.signals.received(); sig != 0 && ctx.Err() != nil {
		status = 128 + sig
	}
	stop()
	os.Exit(status)
}
