package dockerfile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/sys/signal"
)

// configure lets an instruction change the image's configuration.
func (c *compiler) configure(st *state, cmd instructions.Command) error {
	cfg := &st.config
	switch cmd := cmd.(type) {
	case *instructions.EnvCommand:
		for _, kv := range cmd.Env {
			c.checkSecret("ENV", kv.Key, cmd)
			cfg.Env = setEnv(cfg.Env, kv.Key, kv.Value)
			st.env.set(kv.Key, kv.Value)
		}
		c.notePairs(st, cmd, cmd.Env)
	case *instructions.LabelCommand:
		more := map[string]string{}
		for _, kv := range cmd.Labels {
			more[kv.Key] = kv.Value
		}
		cfg.Labels = mergeLabels(cfg.Labels, more)
		c.notePairs(st, cmd, cmd.Labels)
	case *instructions.ArgCommand:
		return c.arg(st, cmd)
	case *instructions.MaintainerCommand:
		st.author = cmd.Maintainer
		st.note("MAINTAINER "+cmd.Maintainer, nil)
	case *instructions.UserCommand:
		cfg.User = cmd.User
		st.note("USER "+cmd.User, nil)
	case *instructions.VolumeCommand:
		for _, v := range cmd.Volumes {
			if v == "" {
				return errors.New("VOLUME specified can not be an empty string")
			}
			if cfg.Volumes == nil {
				cfg.Volumes = map[string]struct{}{}
			}
			cfg.Volumes[v] = struct{}{}
		}
		st.note(fmt.Sprintf("VOLUME %v", cmd.Volumes), nil)
	case *instructions.StopSignalCommand:
		if _, err := signal.ParseSignal(cmd.Signal); err != nil {
			return err
		}
		cfg.StopSignal = cmd.Signal
		st.note("STOPSIGNAL "+cmd.Signal, nil)
	case *instructions.ShellCommand:
		cfg.Shell = cmd.Shell
		st.note(fmt.Sprintf("SHELL %v", cmd.Shell), nil)
	case *instructions.OnbuildCommand:
		cfg.OnBuild = append(cfg.OnBuild, cmd.Expression) // no line of history, as BuildKit has it
	case *instructions.HealthCheckCommand:
		cfg.Healthcheck = cmd.Health
		st.note(fmt.Sprintf("HEALTHCHECK %+v", *cfg.Healthcheck), nil)
	case *instructions.ExposeCommand:
		return c.expose(st, cmd)
	default:
		return c.command(st, cmd)
	}
	return nil
}

// notePairs adds the line of an instruction that sets pairs.
func (c *compiler) notePairs(st *state, cmd instructions.Command, pairs instructions.KeyValuePairs) {
	words := []string{strings.ToUpper(cmd.Name())}
	for _, kv := range pairs {
		if kv.NoDelim {
			c.linterOf(cmd).Run(&linter.RuleLegacyKeyValueFormat, cmd.Location(), linter.RuleLegacyKeyValueFormat.Format(cmd.Name()))
		}
		words = append(words, kv.String())
	}
	st.note(strings.Join(words, " "), nil)
}

// command sets CMD and ENTRYPOINT.
func (c *compiler) command(st *state, cmd instructions.Command) error {
	var line *instructions.ShellDependantCmdLine
	name := strings.ToUpper(cmd.Name())
	switch cmd := cmd.(type) {
	case *instructions.CmdCommand:
		line = &cmd.ShellDependantCmdLine
	case *instructions.EntrypointCommand:
		line = &cmd.ShellDependantCmdLine
	default:
		return fmt.Errorf("unknown instruction: %s", name)
	}
	argv := line.CmdLine
	if line.PrependShell {
		if len(st.config.Shell) == 0 {
			c.linterOf(cmd).Run(&linter.RuleJSONArgsRecommended, cmd.Location(), linter.RuleJSONArgsRecommended.Format(name))
		}
		argv = st.withShell(argv)
	}
	if name == "CMD" {
		st.config.Cmd, st.config.ArgsEscaped = argv, true //nolint:staticcheck // BuildKit sets it
	} else {
		st.config.Entrypoint = argv
		if !slices.ContainsFunc(st.stage.Commands, func(o instructions.Command) bool { _, ok := o.(*instructions.CmdCommand); return ok }) {
			st.config.Cmd = nil // the base's arguments were for its own entrypoint
		}
	}
	st.note(fmt.Sprintf("%s %q", name, argv), nil)
	return nil
}

func (st *state) withShell(argv []string) []string {
	return append(slices.Clone(st.shell()), strings.Join(argv, " "))
}

// shell is what the shell form of an instruction is given to.
func (st *state) shell() []string {
	if len(st.config.Shell) == 0 {
		return []string{"/bin/sh", "-c"}
	}
	return st.config.Shell
}

// noEnv are arguments that commands do not see as variables.
var noEnv = map[string]bool{"BUILDKIT_SYNTAX": true}

func (c *compiler) arg(st *state, cmd *instructions.ArgCommand) error {
	var shown []string
	for i := range cmd.Args {
		a := &cmd.Args[i]
		p := paramOf(*a, cmd)
		c.checkSecret("ARG", a.Key, cmd)
		switch given, ok := c.opts.Args[a.Key]; {
		case ok:
			a.Value = &given
		case a.Value != nil:
			v, err := c.expander(st, cmd)(*a.Value)
			if err != nil {
				return err
			}
			a.Value = &v
		default:
			if v, ok := c.global.Get(a.Key); ok {
				a.Value, p.inherited = &v, true
			}
		}
		if !slices.Contains(st.declared, a.Key) {
			st.declared = append(st.declared, a.Key)
		}
		text := a.Key
		if a.Value != nil {
			p.Value = *a.Value
			text += "=" + *a.Value
			if !noEnv[a.Key] {
				if !slices.ContainsFunc(st.config.Env, func(kv string) bool { return strings.HasPrefix(kv, a.Key+"=") }) {
					st.env.set(a.Key, *a.Value) // ENV wins
				}
				st.args.set(a.Key, *a.Value)
			}
		}
		shown = append(shown, text)
		c.params[st.index] = append(c.params[st.index], p)
	}
	st.note("ARG "+strings.Join(shown, " "), nil)
	return nil
}

func (c *compiler) expose(st *state, cmd *instructions.ExposeCommand) error {
	var shown []string
	for _, p := range cmd.Ports {
		c.checkPort(p, cmd)
		words, err := c.lex().ProcessWords(p, st.env)
		if err != nil {
			return err
		}
		for _, w := range words {
			ports, err := expandPorts(w)
			if err != nil {
				return err
			}
			shown = append(shown, ports...)
		}
	}
	if st.config.ExposedPorts == nil {
		st.config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range shown {
		st.config.ExposedPorts[p] = struct{}{}
	}
	st.note(fmt.Sprintf("EXPOSE %v", shown), nil)
	return nil
}

// expandPorts reads "80", "53/udp" or "7000-7002/tcp".
func expandPorts(w string) ([]string, error) {
	ports, proto, ok := strings.Cut(w, "/")
	if !ok {
		proto = "tcp"
	}
	if i := strings.LastIndexByte(ports, ':'); i >= 0 {
		ports = ports[i+1:] // what is before it says nothing in an image
	}
	proto = strings.ToLower(proto)
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return nil, fmt.Errorf("invalid port %q: invalid proto: %s", w, proto)
	}
	lo, hi, ranged := strings.Cut(ports, "-")
	if !ranged {
		hi = lo
	}
	first, err1 := strconv.ParseUint(lo, 10, 16)
	last, err2 := strconv.ParseUint(hi, 10, 16)
	if err := errors.Join(err1, err2); err != nil || first > last {
		return nil, fmt.Errorf("invalid containerPort: %s", ports)
	}
	var out []string
	for p := first; p <= last; p++ {
		out = append(out, strconv.FormatUint(p, 10)+"/"+proto)
	}
	return out, nil
}
