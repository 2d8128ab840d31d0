package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"strata/pkg/linux/fifo"
	"strata/pkg/shimio"
	"strata/pkg/stdcopy"
)

// Holder holds the streams of a process that belongs to a foreign shim: it reads its
// output from two pipes and writes stdin to a named pipe.
type Holder struct {
	hub   *Hub
	pumps []*pump
}

// Hold opens the log, the attach socket and the streams. Run serves them.
func Hold(ctx context.Context, uri shimio.URI, stdout, stderr int) (*Holder, error) {
	hub, err := OpenHub(uri, uri.Terminal)
	if err != nil {
		return nil, err
	}
	h := &Holder{hub: hub}
	if err := h.open(uri, stdout, stderr); err != nil {
		hub.stdin.Close()
		return nil, errors.Join(err, hub.Close(ctx))
	}
	hub.Serve(ctx)
	return h, nil
}

func (h *Holder) open(uri shimio.URI, stdout, stderr int) error {
	for stream, fd := range map[stdcopy.Stream]int{stdcopy.Stdout: stdout, stdcopy.Stderr: stderr} {
		if err := syscall.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("take over descriptor %d: %w", fd, os.NewSyscallError("fcntl", err))
		}
		syscall.CloseOnExec(fd)
		write, idle := h.hub.output(stream)
		p, err := newPump(os.NewFile(uintptr(fd), "output"), sink{write: write, idle: idle, close: func() {}})
		if err != nil {
			return fmt.Errorf("take over descriptor %d: %w", fd, err)
		}
		h.pumps = append(h.pumps, p)
	}
	if uri.StdinFIFO == "" || uri.Stdin == shimio.StdinNone {
		return nil
	}
	// Both ends: the foreign shim may open its own only later.
	f, err := fifo.OpenBoth(uri.StdinFIFO)
	if err != nil {
		return classify(fmt.Errorf("open stdin: %w", err))
	}
	h.hub.stdin.attach(f, false)
	return nil
}

// Run returns when the output has ended and every client has it.
func (h *Holder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, p := range h.pumps {
		wg.Go(p.run)
	}
	wg.Wait()
	h.hub.processEnded()
	return h.hub.Close(ctx)
}
