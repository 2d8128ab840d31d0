package build

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"strata/pkg/ctxlog"
)

// forwardAgent listens at a socket, and joins each connection with the client's agent id.
// stop ends it and all connections.
func forwardAgent(ctx context.Context, socket, id string, agents Agents) (stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("forward ssh agent: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			wg.Go(func() { joinAgent(ctx, conn, id, agents) })
		}
	})
	return func() {
		cancel()
		_ = l.Close() // its file goes with it
		wg.Wait()
	}, nil
}

// joinAgent copies in both directions until either side ends.
func joinAgent(ctx context.Context, near net.Conn, id string, agents Agents) {
	defer func() { _ = near.Close() }() // nobody waits for it
	far, err := agents.Dial(ctx, id)
	if err != nil {
		ctxlog.From(ctx).Warn("a command did not reach the client's ssh agent", ctxlog.Error, err)
		return
	}
	defer func() { _ = far.Close() }() // nobody waits for it
	stop := context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })
	defer stop()
	var wg sync.WaitGroup
	for _, c := range [][2]net.Conn{{near, far}, {far, near}} {
		wg.Go(func() {
			_, _ = io.Copy(c[0], c[1])       // an end, however it came
			_, _ = near.Close(), far.Close() // ends the other direction
		})
	}
	wg.Wait()
}
