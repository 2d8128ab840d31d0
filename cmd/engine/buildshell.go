package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
	"strata/pkg/buildkit"
	"strata/pkg/term"
)

func checkOnFailure(v string) error {
	switch v {
	case "", buildkit.OnFailureShell, buildkit.OnFailureAsLeft:
		return nil
	}
	return fmt.Errorf("invalid --on-failure %q: use %s or %s", v, buildkit.OnFailureShell, buildkit.OnFailureAsLeft)
}

// checkShellTerminal refuses a shell without a terminal before anything begins.
func (s *session) checkShellTerminal(c *cli.Context) error {
	if c.String("on-failure") != "" && (!isTerminal(s.stdin) || !isTerminal(s.stdout)) {
		return errors.New("--on-failure=shell needs a terminal: standard input and output must be one")
	}
	return nil
}

// failureShell lets the user look at what a step has found, or left, that failed.
func (s *session) failureShell(view *buildView, when string) func(context.Context, *buildclient.Process) error {
	return func(ctx context.Context, p *buildclient.Process) error {
		defer view.suspend()()
		fmt.Fprintf(s.stdout, "\n%s\n%s\nThis is a shell with the files %s this step. \"exit\" ends the build.\n\n", p.Step, p.Failure, when)
		restore, err := term.MakeRaw(s.stdin)
		if err != nil {
			return fmt.Errorf("make terminal raw: %w", err)
		}
		stop := s.followSize(ctx, func(_ context.Context, h, w uint) error { return p.Resize(h, w) })
		go func() { _, _ = io.Copy(p, s.stdin) }() // it ends with the process: a Read of a terminal cannot be ended
		_, err = io.Copy(s.stdout, p)
		stop()
		if rerr := restore(); rerr != nil {
			s.debugf("restore terminal: %v", rerr)
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(s.stderr, "no shell: %v\n", err)
		}
		return nil
	}
}

// buildFailure is why a build has failed, and how to have a look at the step, or why not.
func (s *session) buildFailure(c *cli.Context, err, noShell error) error {
	shown := buildError(err)
	if noShell != nil {
		text, _ := buildclient.Explain(noShell)
		if errors.Is(err, noShell) { // there is no other
			return fmt.Errorf("--on-failure=shell: the daemon gives no shell: %s", text)
		}
		return fmt.Errorf("%w\n--on-failure=shell: the daemon gives no shell: %s", shown, text)
	}
	if buildkit.DetailsOf(err).Exit == 0 || c.String("on-failure") != "" || !isTerminal(s.stdout) {
		return shown
	}
	return fmt.Errorf("%w\nFor a shell with the files before this step, or as it has left them: engine build --on-failure=%s …, or --on-failure=%s", shown, buildkit.OnFailureShell, buildkit.OnFailureAsLeft)
}
