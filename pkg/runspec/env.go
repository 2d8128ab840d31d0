package runspec

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/moby/moby/api/types/container"
)

// Environment reads --env-file and --env in this order. NAME without "=" takes the value of our own
// environment. If that has none, it is left out where a file names it; as an option it goes to the
// daemon as it is, which then takes the variable of the image away.
func Environment(files, items []string) ([]string, error) {
	env := []string{}
	for _, file := range files {
		lines, err := readLines(file)
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			name, _, _ := strings.Cut(l, "=")
			if strings.ContainsAny(name, " \t") {
				return nil, invalid("poorly formatted environment: variable '%s' contains whitespaces", name)
			}
			if name == "" {
				return nil, invalid("poorly formatted environment: no variable name on line '%s'", l)
			}
			if v, ok := variable(l); ok {
				env = append(env, v)
			}
		}
	}
	for _, item := range items {
		if item == "" || item[0] == '=' {
			return nil, invalid("invalid environment variable: %s", item)
		}
		v, _ := variable(item)
		env = append(env, v)
	}
	return env, nil
}

// variable completes a bare name from our environment; ok says that it has a value.
func variable(item string) (v string, ok bool) {
	if strings.Contains(item, "=") {
		return item, true
	}
	if v, ok := os.LookupEnv(item); ok {
		return item + "=" + v, true
	}
	return item, false
}

// Labels reads --label-file and --label in this order.
func Labels(files, items []string) (map[string]string, error) {
	var all []string
	for _, file := range files {
		lines, err := readLines(file)
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	for _, item := range items {
		if item == "" || item[0] == '=' {
			return nil, invalid("invalid label format: %q", item)
		}
		all = append(all, item)
	}
	return Pairs(all), nil
}

// readLines returns the lines of a file without comments, empty lines, leading blanks and byte
// order mark.
func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		l := strings.TrimLeft(strings.TrimPrefix(sc.Text(), "\ufeff"), " \t")
		if !utf8.ValidString(l) {
			return nil, invalid("%s: line %d: invalid utf8 bytes", path, n)
		}
		if l != "" && l[0] != '#' {
			out = append(out, l)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return out, nil
}

// health reads the --health options; nil leaves the image's own.
func (p *parser) health() *container.HealthConfig {
	f := p.f
	set := false
	for _, name := range []string{"health-cmd", "health-interval", "health-timeout", "health-start-period", "health-start-interval", "health-retries"} {
		set = set || f.IsSet(name)
	}
	if f.Bool("no-healthcheck") {
		if set {
			p.fail(invalid("--no-healthcheck conflicts with --health-* options"))
		}
		return &container.HealthConfig{Test: []string{"NONE"}}
	}
	if !set {
		return nil
	}
	h := &container.HealthConfig{
		Interval:      p.duration("health-interval"),
		Timeout:       p.duration("health-timeout"),
		StartPeriod:   p.duration("health-start-period"),
		StartInterval: p.duration("health-start-interval"),
		Retries:       int(f.Int64("health-retries")),
	}
	if cmd := f.String("health-cmd"); cmd != "" {
		h.Test = []string{"CMD-SHELL", cmd}
	}
	if h.Retries < 0 {
		p.fail(invalid("--health-retries cannot be negative"))
	}
	return h
}

func (p *parser) duration(name string) time.Duration {
	s := p.f.String(name)
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		p.fail(invalid("--%s: %v", name, err))
	}
	if d < 0 {
		p.fail(invalid("--%s cannot be negative", name))
	}
	return d
}
