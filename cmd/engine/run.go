package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/runspec"
	"strata/pkg/term"
)

const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

func runCommand(s *session) cliapp.Command {
	flags := append(createFlags(),
		cliapp.Flag{Name: "detach", Short: "d", Usage: "Run the container in the background and print its ID"},
		cliapp.Flag{Name: "detach-keys", Kind: cliapp.String, Usage: "Key sequence that detaches from the container"},
		cliapp.Flag{Name: "sig-proxy", Default: "true", Usage: "Pass received signals on to the process"},
	)
	return cliapp.Command{
		Name: "run", Args: "[OPTIONS] IMAGE [COMMAND] [ARG...]", Min: 1, Max: -1, StopAtArg: true,
		Short:  "Create and run a new container from an image",
		Also:   []string{"container run", "run"},
		Flags:  flags,
		Action: s.run,
	}
}

// run makes a container, connects to it and starts it, in the order in which nothing of its output or
// of its end can be missed: create, attach, wait, start.
func (s *session) run(ctx context.Context, c *cli.Context) error {
	spec, err := runspec.Parse(c, c.Args().First(), c.Args().Tail())
	if err != nil {
		return runError("run", err)
	}
	if err := s.checkTTY(spec.Config.AttachStdin, spec.Config.Tty); err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return runError("run", err)
	}
	if h, w := s.terminalSize(); spec.Config.Tty {
		spec.HostConfig.ConsoleSize = [2]uint{h, w}
	}
	id, err := s.create(ctx, api, c, spec)
	if err != nil {
		return runError("run", err)
	}
	r := running{s: s, api: api, id: id, spec: spec, sigProxy: c.Bool("sig-proxy") && !spec.Config.Tty, keys: s.detachKeys(c)}
	if err := r.start(ctx); err != nil {
		return err
	}
	return r.wait(ctx)
}

// running is a container between its creation and its end.
type running struct {
	s        *session
	api      *client.Client
	id       string
	spec     runspec.Spec
	sigProxy bool
	keys     string

	streams *streams // nil when nothing is attached
	exited  <-chan client.WaitResult
	stop    func() // ends the passing on of signals
}

func (r *running) attached() bool {
	return r.spec.Config.AttachStdin || r.spec.Config.AttachStdout || r.spec.Config.AttachStderr
}

func (r *running) start(ctx context.Context) error {
	conf := r.spec.Config
	if r.attached() {
		st, err := r.s.attachStreams(ctx, r.api, r.id, conf.Tty, client.AttachContainer{
			Stdin: conf.AttachStdin, Stdout: conf.AttachStdout, Stderr: conf.AttachStderr, DetachKeys: r.keys,
		})
		if err != nil {
			return runError("run", err)
		}
		r.streams = st
	}
	cond := container.WaitConditionNextExit
	if r.spec.HostConfig.AutoRemove {
		cond = container.WaitConditionRemoved
	}
	var err error
	if r.exited, err = r.api.ContainerWait(ctx, r.id, cond); err != nil {
		r.streams.close()
		return runError("run", err)
	}
	r.stop = func() {}
	if r.sigProxy && r.attached() {
		r.stop = r.s.proxySignals(ctx, r.kill)
	}
	r.streams.begin(ctx)
	if err := r.api.ContainerStart(ctx, r.id, r.keys); err != nil {
		r.stop()
		r.streams.close()
		if r.spec.HostConfig.AutoRemove {
			select {
			case <-r.exited: // until it is removed
			case <-ctx.Done():
			}
		}
		return runError("run", err)
	}
	return nil
}

func (r *running) kill(ctx context.Context, signal string) error {
	return r.api.ContainerKill(ctx, r.id, signal)
}

// wait returns when the container has ended or the user has left it.
func (r *running) wait(ctx context.Context) error {
	defer r.stop()
	if !r.attached() {
		fmt.Fprintln(r.s.stdout, r.id)
		return nil
	}
	if r.spec.Config.Tty {
		defer r.s.followSize(ctx, func(ctx context.Context, h, w uint) error { return r.api.ContainerResize(ctx, r.id, h, w) })()
	}
	switch err := r.streams.wait(ctx); {
	case errors.Is(err, term.ErrDetached):
		return nil
	case err != nil:
		r.s.debugf("streams of container %s: %v", r.id, err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return exitStatus(ctx, r.exited)
}

// exitStatus turns the end of a container into the end of this process.
func exitStatus(ctx context.Context, exited <-chan client.WaitResult) error {
	select {
	case res := <-exited:
		switch {
		case res.Err != nil:
			return cliapp.Exit(cliapp.StatusUsage, "Error waiting for container: %v", res.Err)
		case res.StatusCode != 0:
			return &cliapp.ExitError{Status: res.StatusCode}
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// runError gives an error of run, create or start the exit status that scripts expect. The daemon
// reports a program that cannot be executed in words only.
func runError(verb string, err error) error {
	if e, ok := errors.AsType[*cliapp.ExitError](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	status := cliapp.StatusUsage
	msg := err.Error()
	switch {
	case errors.Is(err, errdefs.ErrUnavailable), errors.Is(err, os.ErrNotExist):
	case strings.Contains(msg, "executable file not found"), strings.Contains(msg, "no such file or directory"):
		status = statusNotFound
	case strings.Contains(msg, syscall.EACCES.Error()), strings.Contains(msg, syscall.EISDIR.Error()):
		status = statusNotExecutable
	}
	return cliapp.Exit(status, "engine: %s\n\nRun 'engine %s --help' for more information", msg, verb)
}

// checkTTY refuses a terminal inside without one outside: every program in it would misbehave.
func (s *session) checkTTY(stdin, tty bool) error {
	if stdin && tty && !term.IsTerminal(s.stdin) {
		return errors.New("the input device is not a TTY")
	}
	return nil
}

// detachKeys is the sequence in force: that of the flag, or that of the configuration.
func (s *session) detachKeys(c *cli.Context) string {
	if keys := c.String("detach-keys"); keys != "" {
		return keys
	}
	return s.conf().DetachKeys
}
