package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"strata/pkg/atomicfile"
	"strata/pkg/cleanup"
	"strata/pkg/linux/cgroups"
	"strata/shim/internal/bootstrap"
	"strata/shim/internal/taskapi"
)

// Config is what a daemon says on the command line.
type Config struct {
	Namespace   string
	ContainerID string
	Address     string // of the daemon's gRPC socket
	Publisher   string // the daemon's binary; not used, events go over ttrpc
	Bundle      string // empty: the working directory
	Debug       bool
	// TTRPCAddress is where events go; empty: Address with ".ttrpc" behind it.
	TTRPCAddress string
}

func (c Config) bundle() (string, error) {
	if c.Bundle != "" {
		return filepath.Abs(c.Bundle)
	}
	return os.Getwd()
}

// listenerFD is where the server finds its socket.
const listenerFD = 3

// Start makes sure that a shim serves the container's group and writes to stdout where
// it listens. It returns before the shim has answered anything; connections wait in the
// socket's backlog.
func Start(_ context.Context, cfg Config, stdin io.Reader, stdout io.Writer) error {
	req, err := bootstrap.Read(stdin, cfg.Namespace, cfg.ContainerID)
	if err != nil {
		return err
	}
	bundle, err := cfg.bundle()
	if err != nil {
		return fmt.Errorf("find bundle: %w", err)
	}
	group, err := bootstrap.Group(bundle, cfg.ContainerID)
	if err != nil {
		return err
	}
	socket := bootstrap.Socket(req.SocketDir, cfg.Address, cfg.Namespace, group)
	l, err := bootstrap.Listen(socket)
	if err != nil {
		return err
	}
	var undo cleanup.Stack
	defer undo.Clean()
	if l != nil {
		defer l.Close()
		undo.Add(func() { _ = os.Remove(socket) })
		if err := spawn(cfg, req, bundle, l); err != nil {
			return err
		}
	}
	if req.Protocol != bootstrap.Params {
		// Daemons up to 2.2 find a shim again by this file.
		if err := atomicfile.Write(filepath.Join(bundle, "address"), []byte("unix://"+socket), 0o600, atomicfile.Volatile); err != nil {
			return err
		}
	}
	undo.Release()
	return req.Reply(stdout, socket)
}

// spawn starts the server, which outlives this process.
func spawn(cfg Config, req bootstrap.Request, bundle string, l *net.UnixListener) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	socket, err := l.File()
	if err != nil {
		return fmt.Errorf("hand over socket: %w", err)
	}
	defer socket.Close()
	argv := []string{self, "-namespace", cfg.Namespace, "-id", cfg.ContainerID, "-address", cfg.Address}
	if cfg.Debug || req.Debug {
		argv = append(argv, "-debug")
	}
	pid, err := syscall.ForkExec(self, argv, &syscall.ProcAttr{
		Dir: bundle, Env: environment(cfg, req),
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), socket.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start shim server: %w", &os.PathError{Op: "fork/exec", Path: self, Err: err})
	}
	if err := place(pid, req); err != nil {
		return errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	return nil
}

// environment is that of the daemon, with the address that the request gives and one
// processor: a shim mostly waits, and each processor has memory of its own.
func environment(cfg Config, req bootstrap.Request) []string {
	ttrpc := cfg.TTRPCAddress
	if req.TTRPCAddress != "" {
		ttrpc = req.TTRPCAddress
	}
	set := map[string]string{"GOMAXPROCS": "1", "TTRPC_ADDRESS": ttrpc}
	env := make([]string, 0, len(set)+16)
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		if _, ok := set[key]; !ok && key != "NOTIFY_SOCKET" {
			env = append(env, kv)
		}
	}
	for key, value := range set {
		if value != "" {
			env = append(env, key+"="+value)
		}
	}
	return env
}

// place puts the server into the cgroup that is asked for and has the OOM killer prefer
// it to the daemon.
func place(pid int, req bootstrap.Request) error {
	opts, err := taskapi.DecodeRuncOptions(req.Options)
	if err != nil {
		return err
	}
	if path := opts.GetShimCgroup(); path != "" {
		cg, err := cgroups.New(cgroups.Options{Path: path})
		if err != nil {
			return fmt.Errorf("join shim cgroup %q: %w", path, err)
		}
		if !cg.Exists() {
			err = cg.Create(nil)
		}
		if err = errors.Join(err, cg.Join(pid)); err != nil {
			return fmt.Errorf("join shim cgroup %q: %w", path, err)
		}
	}
	adjustOOMScore(pid)
	return nil
}

// maxOOMScoreAdj is the kernel's highest oom_score_adj (proc_pid_oom_score_adj(5)).
const maxOOMScoreAdj = 1000

// adjustOOMScore sets the server's score one above the daemon's. Failure is accepted: it
// needs CAP_SYS_RESOURCE where the daemon has lowered its own, and weakens only whom the
// kernel kills first.
func adjustOOMScore(pid int) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return
	}
	score = min(score+1, maxOOMScoreAdj)
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(score)), 0)
}
