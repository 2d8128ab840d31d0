package ocirun

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"strata/pkg/linux/fdpass"
	"strata/pkg/linux/tty"
)

// terminal relays between the runtime's own terminal and the container's.
type terminal struct {
	cfg        Config
	ours       *os.File // where the child's master arrives
	childEnd   *os.File
	master     *os.File
	saved      *tty.State
	outputDone chan struct{} // closed when the container's output has ended
}

func newTerminal(cfg Config) (*terminal, error) {
	a, b, err := fdpass.Pair()
	if err != nil {
		return nil, err
	}
	return &terminal{cfg: cfg, ours: a, childEnd: b, outputDone: make(chan struct{})}, nil
}

// attach takes the master and starts to relay. The container's terminal does not turn
// newlines into CR LF (plan.Console, Raw): that is done by the one that shows them.
func (t *terminal) attach() error {
	if t.master != nil {
		return nil
	}
	// The child has its own copy of the sending end; without ours an end is seen.
	if err := t.childEnd.Close(); err != nil {
		return err
	}
	t.childEnd = nil
	_, m, err := fdpass.Receive(t.ours, make([]byte, 64))
	if err != nil {
		return err
	}
	fd := int(m.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return errors.Join(err, m.Close())
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, m.Close()); err != nil {
		return err
	}
	t.master = os.NewFile(uintptr(dup), "terminal")
	if tty.IsTerminal(t.cfg.Stdin) {
		st, err := tty.GetState(t.cfg.Stdin)
		if err != nil {
			return err
		}
		if err := tty.SetState(t.cfg.Stdin, st.Raw()); err != nil {
			return err
		}
		t.saved = &st
	}
	t.resize()
	go func() { // ends with the process: standard input cannot be interrupted
		_, _ = io.Copy(t.master, t.cfg.Stdin)
	}()
	go func() {
		defer close(t.outputDone)
		_, _ = io.Copy(t.cfg.Stdout, t.master) // EIO when the last slave is closed
	}()
	return nil
}

// resize gives the container's terminal the size of ours.
func (t *terminal) resize() {
	if t.master == nil || !tty.IsTerminal(t.cfg.Stdin) {
		return
	}
	if s, err := tty.GetSize(t.cfg.Stdin); err == nil {
		_ = tty.SetSize(t.master, s) // a terminal that has gone needs no size
	}
}

// drain waits until what the container wrote has been shown.
func (t *terminal) drain() {
	if t.master != nil {
		<-t.outputDone
	}
}

func (t *terminal) close() {
	if t.saved != nil {
		_ = tty.SetState(t.cfg.Stdin, *t.saved)
	}
	for _, f := range []*os.File{t.ours, t.childEnd, t.master} {
		if f != nil {
			_ = f.Close()
		}
	}
}
