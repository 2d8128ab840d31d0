package stdio

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"sort"
	"syscall"
	"time"

	"strata/pkg/linux/fifo"
	"strata/shim/internal/reaper"
)

// Time limits of a logger process, containerd's.
const (
	loggerReady = 12 * time.Second
	loggerEnd   = 12 * time.Second
)

// logger is a process that takes a container's output, as binary:// asks for: it reads
// stdout on descriptor 3 and stderr on 4, and closes 5 when it is ready; with
// binary-v2:// it writes a byte there before.
//
// Source: containerd, docs "runtime/v2", section "Logging".
type logger struct {
	pid    int
	reaper *reaper.Reaper
	ended  chan struct{}
}

// startLogger runs the logger of u and returns the writing ends of its streams. The
// ends are blocking: they are made for a container.
func startLogger(u *url.URL, cfg Config) (l *logger, stdout, stderr int, err error) {
	outR, outW, err := blockingPipe()
	if err != nil {
		return nil, -1, -1, err
	}
	errR, errW, err := blockingPipe()
	if err != nil {
		return nil, -1, -1, errors.Join(err, fifo.CloseFD(outR), fifo.CloseFD(outW))
	}
	l, err = runLogger(u, cfg, outR, errR)
	err = errors.Join(err, fifo.CloseFD(outR), fifo.CloseFD(errR))
	if err != nil {
		return nil, -1, -1, errors.Join(err, fifo.CloseFD(outW), fifo.CloseFD(errW))
	}
	return l, outW, errW, nil
}

func blockingPipe() (r, w int, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return -1, -1, os.NewSyscallError("pipe2", err)
	}
	return p[0], p[1], nil
}

func runLogger(u *url.URL, cfg Config, stdout, stderr int) (*logger, error) {
	ready, signal, err := fifo.Pipe(fifo.Read)
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, fifo.CloseFD(signal))
	}
	defer null.Close()
	l := &logger{reaper: cfg.Reaper, ended: make(chan struct{})}
	l.pid, err = cfg.Reaper.Start(u.Path, append([]string{u.Path}, queryArgs(u)...), &syscall.ProcAttr{
		Env:   append(os.Environ(), "CONTAINER_ID="+cfg.ContainerID, "CONTAINER_NAMESPACE="+cfg.Namespace),
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), uintptr(stdout), uintptr(stderr), uintptr(signal)},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	}, func(reaper.Exit) { close(l.ended) })
	err = errors.Join(err, fifo.CloseFD(signal))
	if err != nil {
		return nil, fmt.Errorf("start logger: %w", err)
	}
	_ = ready.SetReadDeadline(time.Now().Add(loggerReady))
	n, err := ready.Read(make([]byte, 1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.stop()
		return nil, fmt.Errorf("logger %q was not ready after %s", u.Path, loggerReady)
	case u.Scheme == "binary-v2" && n == 0:
		l.stop()
		return nil, fmt.Errorf("logger %q ended before it was ready", u.Path)
	}
	return l, nil
}

// queryArgs turns the query into arguments, "KEY VALUE" in the order of the keys, as
// containerd's shim does.
func queryArgs(u *url.URL) []string {
	q := u.Query()
	keys := make([]string, 0, len(q))
	for k := range q {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	args := make([]string, 0, 2*len(keys))
	for _, k := range keys {
		args = append(args, k)
		if v := q.Get(k); v != "" {
			args = append(args, v)
		}
	}
	return args
}

// stop waits for the logger, whose streams have ended, and insists if it must.
func (l *logger) stop() {
	select {
	case <-l.ended:
		return
	case <-time.After(100 * time.Millisecond): // most end by themselves on the end of their input
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if ok, _ := l.reaper.Signal(l.pid, sig); !ok {
			return
		}
		select {
		case <-l.ended:
			return
		case <-time.After(loggerEnd):
		}
	}
}

func openNull() (int, error) {
	fd, err := syscall.Open(os.DevNull, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	return fd, nil
}
