package images

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/docker-image-spec/specs-go/v1"
)

// ApplyChanges applies Dockerfile instructions, one to an element, to a "config" object
// (nil for an empty one) and returns the new one. Fields that it does not know stay. Only
// the instructions that `docker commit --change` takes are allowed: CMD, ENTRYPOINT, ENV,
// EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR. Errors are
// of class ErrInvalidArgument.
//
// Source: Docker Engine API, POST /commit, "changes"; Dockerfile reference.
func ApplyChanges(raw json.RawMessage, changes []string) (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	var c v1.DockerOCIImageConfig
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, fmt.Errorf("image config: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return nil, fmt.Errorf("image config: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	for _, ch := range changes {
		for line := range strings.SplitSeq(ch, "\n") {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			if err := change(&c, line); err != nil {
				return nil, err
			}
		}
	}
	for _, known := range []string{"User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "Healthcheck", "OnBuild", "Shell"} {
		delete(fields, known)
	}
	out, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, &fields); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

func change(c *v1.DockerOCIImageConfig, line string) error {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	bad := func(why string) error {
		return fmt.Errorf("change %q: %s: %w", line, why, errdefs.ErrInvalidArgument)
	}
	if rest == "" {
		return bad("requires an argument")
	}
	switch verb := strings.ToUpper(word); verb {
	case "CMD":
		c.Cmd = command(rest, c.Shell)
	case "ENTRYPOINT":
		c.Entrypoint = command(rest, c.Shell)
	case "SHELL":
		if !strings.HasPrefix(rest, "[") || json.Unmarshal([]byte(rest), &c.Shell) != nil {
			return bad("wants a JSON array")
		}
	case "USER":
		c.User = rest
	case "WORKDIR":
		if !strings.HasPrefix(rest, "/") {
			rest = strings.TrimRight(c.WorkingDir, "/") + "/" + rest
		}
		c.WorkingDir = rest
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "ONBUILD":
		c.OnBuild = append(c.OnBuild, rest)
	case "EXPOSE":
		return expose(c, rest, bad)
	case "VOLUME":
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		for _, v := range wordsOrJSON(rest) {
			c.Volumes[v] = struct{}{}
		}
	case "ENV", "LABEL":
		pairs, err := keyValues(rest)
		if err != nil {
			return bad(err.Error())
		}
		for _, p := range pairs {
			if verb == "ENV" {
				c.Env = append(slices.DeleteFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, p[0]+"=") }), p[0]+"="+p[1])
				continue
			}
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[p[0]] = p[1]
		}
	case "HEALTHCHECK":
		h, err := healthcheck(rest)
		if err != nil {
			return bad(err.Error())
		}
		c.Healthcheck = h
	default:
		return bad(strings.ToLower(word) + " is not a valid change command")
	}
	return nil
}

// command reads the exec form, or wraps the shell form.
func command(s string, shell []string) []string {
	var list []string
	if strings.HasPrefix(s, "[") && json.Unmarshal([]byte(s), &list) == nil {
		return list
	}
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), s)
}

func wordsOrJSON(s string) []string {
	var list []string
	if strings.HasPrefix(s, "[") && json.Unmarshal([]byte(s), &list) == nil {
		return list
	}
	return strings.Fields(s)
}

// expose reads "80 53/udp 7000-7002".
func expose(c *v1.DockerOCIImageConfig, s string, bad func(string) error) error {
	if c.ExposedPorts == nil {
		c.ExposedPorts = map[string]struct{}{}
	}
	for w := range strings.FieldsSeq(s) {
		ports, proto, ok := strings.Cut(w, "/")
		if !ok {
			proto = "tcp"
		}
		lo, hi, ranged := strings.Cut(ports, "-")
		if !ranged {
			hi = lo
		}
		first, err1 := strconv.ParseUint(lo, 10, 16)
		last, err2 := strconv.ParseUint(hi, 10, 16)
		proto = strings.ToLower(proto)
		if err1 != nil || err2 != nil || first > last || !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
			return bad("invalid port " + strconv.Quote(w))
		}
		for p := first; p <= last; p++ {
			c.ExposedPorts[strconv.FormatUint(p, 10)+"/"+proto] = struct{}{}
		}
	}
	return nil
}

// keyValues reads k=v k2="v 2" k3=a\ b, or the old form "k v".
func keyValues(s string) ([][2]string, error) {
	words, err := split(s)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(words[0], "=") {
		k, v, _ := strings.Cut(s, " ")
		if v = strings.TrimSpace(v); v == "" {
			return nil, fmt.Errorf("%s must have two arguments", k)
		}
		return [][2]string{{k, v}}, nil
	}
	var out [][2]string
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("syntax error - can't find = in %q", w)
		}
		out = append(out, [2]string{k, v})
	}
	return out, nil
}

// split cuts s into words; quotes and backslashes keep blanks together.
func split(s string) ([]string, error) {
	var words []string
	var b strings.Builder
	var quote byte
	in := false
	for i := 0; i < len(s); i++ {
		ch := s[i]
		switch {
		case ch == '\\' && quote != '\'' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
			in = true
		case quote != 0 && ch == quote:
			quote = 0
		case quote != 0:
			b.WriteByte(ch)
		case ch == '"' || ch == '\'':
			quote, in = ch, true
		case ch == ' ' || ch == '\t':
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
		default:
			b.WriteByte(ch)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("unterminated quote in %q", s)
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}

// healthcheck reads "NONE" or "[--interval=5s …] CMD …".
func healthcheck(s string) (*v1.HealthcheckConfig, error) {
	h := &v1.HealthcheckConfig{}
	for strings.HasPrefix(s, "--") {
		flag, rest, _ := strings.Cut(s, " ")
		s = strings.TrimSpace(rest)
		k, v, _ := strings.Cut(flag[2:], "=")
		if k == "retries" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("invalid --retries %q", v)
			}
			h.Retries = n
			continue
		}
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return nil, fmt.Errorf("invalid --%s %q", k, v)
		}
		switch k {
		case "interval":
			h.Interval = d
		case "timeout":
			h.Timeout = d
		case "start-period":
			h.StartPeriod = d
		case "start-interval":
			h.StartInterval = d
		default:
			return nil, fmt.Errorf("unknown flag --%s", k)
		}
	}
	word, rest, _ := strings.Cut(s, " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToUpper(word) {
	case "NONE":
		h.Test = []string{"NONE"}
	case "CMD":
		var list []string
		switch {
		case rest == "":
			return nil, fmt.Errorf("missing command after HEALTHCHECK CMD")
		case strings.HasPrefix(rest, "[") && json.Unmarshal([]byte(rest), &list) == nil:
			h.Test = append([]string{"CMD"}, list...)
		default:
			h.Test = []string{"CMD-SHELL", rest}
		}
	default:
		return nil, fmt.Errorf("unknown type %q (try CMD)", word)
	}
	return h, nil
}
