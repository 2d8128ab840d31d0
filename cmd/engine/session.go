package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/dockerconfig"
	"strata/pkg/term"
	"strata/pkg/version"
)

// session is what the verbs share. Configuration and connection are opened on first use.
type session struct {
	stdin  *os.File
	stdout io.Writer
	stderr io.Writer

	signals *interrupts
	global  globals
	config  *dockerconfig.File
	client  *client.Client
}

// globals are the options before the command.
type globals struct {
	dir      string // of the client's configuration
	context  string
	hosts    []string
	debug    bool
	level    string
	tls      bool
	verify   bool
	ca, cert string
	key      string
}

func newSession(stdin *os.File, stdout, stderr io.Writer) *session {
	return &session{stdin: stdin, stdout: stdout, stderr: stderr, signals: &interrupts{}, global: globals{dir: dockerconfig.Dir()}}
}

func globalFlags() []cliapp.Flag {
	dir := dockerconfig.Dir()
	certs := dir
	if d := os.Getenv("DOCKER_CERT_PATH"); d != "" {
		certs = d
	}
	return []cliapp.Flag{
		{Name: "config", Kind: cliapp.String, Usage: "Directory of the client's configuration files", Default: dir},
		{Name: "context", Short: "c", Kind: cliapp.String, Usage: `Context that says which daemon to use (overrides STRATA_HOST, DOCKER_HOST and what "engine context use" has set)`},
		{Name: "debug", Short: "D", Usage: "Print the trace id of the requests and details of errors"},
		{Name: "host", Short: "H", Kind: cliapp.List, Usage: "Daemon to use: unix://PATH, tcp://HOST:PORT or ssh://HOST"},
		{Name: "log-level", Short: "l", Kind: cliapp.String, Default: "info", Usage: `Level of log messages ("debug", "info", "warn", "error", "fatal")`},
		{Name: "tls", Usage: "Use TLS; implied by --tlsverify"},
		{Name: "tlscacert", Kind: cliapp.String, Default: filepath.Join(certs, "ca.pem"), Usage: "Trust certificates signed only by this CA"},
		{Name: "tlscert", Kind: cliapp.String, Default: filepath.Join(certs, "cert.pem"), Usage: "TLS certificate file"},
		{Name: "tlskey", Kind: cliapp.String, Default: filepath.Join(certs, "key.pem"), Usage: "TLS key file"},
		{Name: "tlsverify", Usage: "Use TLS and verify the daemon"},
		{Name: "version", Short: "v", Usage: "Print version information and quit"},
	}
}

// before keeps the global flags; it opens nothing.
func (s *session) before(ctx context.Context, c *cli.Context) (context.Context, error) {
	s.global = globals{
		dir:     c.String("config"),
		context: c.String("context"),
		hosts:   globalHosts(c),
		debug:   c.Bool("debug"),
		level:   c.String("log-level"),
		tls:     c.Bool("tls"),
		verify:  c.Bool("tlsverify"),
		ca:      c.String("tlscacert"),
		cert:    c.String("tlscert"),
		key:     c.String("tlskey"),
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error", "fatal"}, s.global.level) {
		return ctx, cliapp.Exit(cliapp.StatusUsage, "unable to parse logging level: %s", s.global.level)
	}
	if v := os.Getenv("DOCKER_TLS_VERIFY"); v != "" {
		s.global.verify = true
	}
	if len(s.global.hosts) > 1 {
		return ctx, errors.New("specify only one -H")
	}
	if len(s.global.hosts) > 0 && s.global.context != "" {
		return ctx, errors.New("conflicting options: cannot specify both --host and --context")
	}
	return ctx, nil
}

// globalHosts reads -H of the tool, also below a command that has a "host" flag of its own.
func globalHosts(c *cli.Context) []string {
	lineage := c.Lineage()
	for _, v := range slices.Backward(lineage) {
		if v.Command != nil && v.IsSet("host") {
			return v.StringSlice("host")
		}
	}
	return nil
}

// conf is the client's configuration file.
func (s *session) conf() *dockerconfig.File {
	if s.config == nil {
		f, err := dockerconfig.Load(s.global.dir)
		if err != nil {
			fmt.Fprintf(s.stderr, "WARNING: Error loading config file: %v\n", err)
		}
		s.config = f
	}
	return s.config
}

func (s *session) contexts() dockerconfig.Contexts { return dockerconfig.OpenContexts(s.global.dir) }

// environmentHost is the daemon that the environment names.
func environmentHost() string {
	if h := os.Getenv("STRATA_HOST"); h != "" {
		return h
	}
	return os.Getenv("DOCKER_HOST")
}

// contextName is the context in use.
func (s *session) contextName() string {
	switch {
	case s.global.context != "":
		return s.global.context
	case len(s.global.hosts) > 0, environmentHost() != "":
		return dockerconfig.DefaultContext
	case os.Getenv("DOCKER_CONTEXT") != "":
		return os.Getenv("DOCKER_CONTEXT")
	case s.conf().CurrentContext != "":
		return s.conf().CurrentContext
	}
	return dockerconfig.DefaultContext
}

// endpoint is the address of the daemon and the TLS configuration to reach it.
func (s *session) endpoint() (host string, conf *tls.Config, err error) {
	name := s.contextName()
	if name != dockerconfig.DefaultContext {
		c, err := s.contexts().Get(name)
		if err != nil {
			return "", nil, fmt.Errorf("use %w; 'engine context ls' lists those that exist", err)
		}
		conf, err := s.contexts().TLS(name, c.Endpoint())
		return c.Host(), conf, err
	}
	host = s.defaultHost()
	if host, err = normaliseHost(host, s.global.tls || s.global.verify); err != nil {
		return "", nil, err
	}
	if !strings.HasPrefix(host, "tcp://") || !s.global.tls && !s.global.verify {
		return host, nil, nil
	}
	g := s.global
	conf, err = dockerconfig.LoadTLS(ifExists(g.ca), ifExists(g.cert), ifExists(g.key), g.verify)
	return host, conf, err
}

func (s *session) defaultHost() string {
	if len(s.global.hosts) > 0 {
		return s.global.hosts[0]
	}
	if h := environmentHost(); h != "" {
		return h
	}
	return client.DefaultHost
}

// ifExists lets a default path be absent.
func ifExists(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// normaliseHost completes what a user may leave out of an address.
func normaliseHost(h string, secure bool) (string, error) {
	h = strings.TrimSpace(h)
	proto, addr, ok := strings.Cut(h, "://")
	if !ok {
		proto, addr = "tcp", h
		if strings.HasPrefix(h, "/") {
			proto = "unix"
		}
	}
	switch proto {
	case "unix":
		if addr == "" {
			return client.DefaultHost, nil
		}
	case "tcp":
		port := "2375"
		if secure {
			port = "2376"
		}
		if hostname, p, err := net.SplitHostPort(addr); err == nil {
			addr = net.JoinHostPort(orDefault(hostname, "localhost"), orDefault(p, port))
		} else {
			addr = net.JoinHostPort(orDefault(strings.Trim(addr, "[]"), "localhost"), port)
		}
	case "ssh", "http", "https":
	default:
		return "", fmt.Errorf("invalid host %q: want unix://PATH, tcp://HOST:PORT or ssh://HOST: %w", h, errdefs.ErrInvalidArgument)
	}
	return proto + "://" + addr, nil
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// api is the client of the daemon in use.
func (s *session) api() (*client.Client, error) {
	if s.client != nil {
		return s.client, nil
	}
	host, conf, err := s.endpoint()
	if err != nil {
		return nil, err
	}
	opts := client.Options{
		Host:      host,
		TLS:       conf,
		Header:    s.conf().HTTPHeaders,
		Version:   os.Getenv("DOCKER_API_VERSION"),
		UserAgent: "Strata-Engine/" + version.Version + " (" + runtime.GOOS + ")",
	}
	if s.global.debug {
		opts.Trace = newTrace()
		fmt.Fprintf(s.stderr, "trace: %s\n", opts.Trace)
	}
	s.client, err = client.New(opts)
	return s.client, err
}

func newTrace() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand says
	return hex.EncodeToString(b[:])
}

func (s *session) debugf(format string, args ...any) {
	if s.global.debug || s.global.level == "debug" {
		fmt.Fprintf(s.stderr, "debug: "+format+"\n", args...)
	}
}

// stdoutFile is stdout if it is a file, for questions about the terminal.
func (s *session) stdoutFile() *os.File {
	f, _ := s.stdout.(*os.File)
	return f
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(f)
}

// confirm asks before something is lost; anything but y is no.
func (s *session) confirm(question string) (bool, error) {
	fmt.Fprintf(s.stdout, "%s [y/N] ", question)
	var answer string
	if _, err := fmt.Fscanln(s.stdin, &answer); err != nil && answer == "" {
		return false, nil // no answer is no
	}
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes"), nil
}
