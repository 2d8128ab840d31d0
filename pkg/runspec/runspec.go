package runspec

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// Flags is where the values come from: a *cli.Context, or a map in tests.
type Flags interface {
	String(name string) string
	StringSlice(name string) []string
	Bool(name string) bool
	Int64(name string) int64
	IsSet(name string) bool
}

// Spec is a container to be made.
type Spec struct {
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	// MacAddress is that of the primary endpoint, for daemons that want it container-wide.
	MacAddress string
}

// Parse reads the options of run and create. Command is what stands after the image.
func Parse(f Flags, image string, command []string) (Spec, error) {
	p := parser{f: f}
	conf := p.config(image, command)
	host := p.hostConfig(conf)
	networking := p.networking(host)
	p.conflicts(conf, host)
	if p.err != nil {
		return Spec{}, p.err
	}
	return Spec{Config: conf, HostConfig: host, Networking: networking, MacAddress: p.mac}, nil
}

// parser remembers the first error, so that each group of options is one plain function.
type parser struct {
	f   Flags
	err error
	mac string
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// invalid makes an error of class ErrInvalidArgument whose text is only the message: it is shown to
// the person who typed the value.
func invalid(format string, args ...any) error {
	return &invalidError{fmt.Sprintf(format, args...)}
}

type invalidError struct{ message string }

func (e *invalidError) Error() string { return e.message }
func (e *invalidError) Unwrap() error { return errdefs.ErrInvalidArgument }

// try holds the two results of a call until in says where an error goes:
// try(ParseCPUs(s)).in(p).
func try[T any](v T, err error) tried[T] { return tried[T]{v, err} }

type tried[T any] struct {
	value T
	err   error
}

// in returns the value and leaves an error to p.
func (t tried[T]) in(p *parser) T {
	if t.err != nil {
		p.fail(t.err)
	}
	return t.value
}

func (p *parser) config(image string, command []string) *container.Config {
	f := p.f
	streams := try(parseAttach(f.StringSlice("attach"))).in(p)
	c := &container.Config{
		Image:       image,
		Hostname:    f.String("hostname"),
		Domainname:  f.String("domainname"),
		User:        f.String("user"),
		Tty:         f.Bool("tty"),
		OpenStdin:   f.Bool("interactive"),
		Cmd:         command,
		WorkingDir:  f.String("workdir"),
		StopSignal:  f.String("stop-signal"),
		Env:         try(Environment(f.StringSlice("env-file"), f.StringSlice("env"))).in(p),
		Labels:      try(Labels(f.StringSlice("label-file"), f.StringSlice("label"))).in(p),
		Healthcheck: p.health(),
	}
	if f.IsSet("entrypoint") {
		c.Entrypoint = []string{""}
		if e := f.String("entrypoint"); e != "" {
			c.Entrypoint = []string{e}
		}
	}
	if f.IsSet("stop-timeout") {
		t := int(f.Int64("stop-timeout"))
		c.StopTimeout = &t
	}
	if f.IsSet("mac-address") {
		p.mac = f.String("mac-address")
	}
	p.attach(c, streams)
	return c
}

// attach chooses the streams: those named, or output and, with -i, input. A detached container has none.
func (p *parser) attach(c *container.Config, named map[string]bool) {
	detached := p.f.Bool("detach")
	if len(named) > 0 && detached {
		p.fail(invalid("conflicting options: cannot specify both --attach and --detach"))
		return
	}
	c.AttachStdin, c.AttachStdout, c.AttachStderr = named["stdin"], named["stdout"], named["stderr"]
	if len(named) == 0 && !detached {
		c.AttachStdout, c.AttachStderr = true, true
		c.AttachStdin = c.OpenStdin
	}
	c.StdinOnce = c.OpenStdin && c.AttachStdin
}

func parseAttach(values []string) (map[string]bool, error) {
	out := map[string]bool{}
	for _, v := range values {
		name := strings.ToLower(v)
		if name != "stdin" && name != "stdout" && name != "stderr" {
			return nil, invalid("valid streams are STDIN, STDOUT and STDERR")
		}
		out[name] = true
	}
	return out, nil
}

func (p *parser) conflicts(c *container.Config, h *container.HostConfig) {
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		p.fail(invalid("conflicting options: cannot specify both --restart and --rm"))
	}
	if c.StdinOnce && p.f.Bool("detach") {
		p.fail(invalid("conflicting options: cannot attach to stdin of a detached container"))
	}
}

// Pairs reads KEY=VALUE items; an item without "=" has an empty value.
func Pairs(items []string) map[string]string {
	out := make(map[string]string, len(items))
	for _, item := range items {
		k, v, _ := strings.Cut(item, "=")
		out[k] = v
	}
	return out
}
