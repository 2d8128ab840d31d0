package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const dialTimeout = 30 * time.Second

// dialer returns the function that opens one connection to the daemon.
func dialer(opts Options) (func(context.Context) (net.Conn, error), error) {
	proto, addr, ok := strings.Cut(opts.Host, "://")
	if !ok || addr == "" {
		return nil, fmt.Errorf("host %q: want unix://PATH, tcp://HOST:PORT or ssh://HOST: %w", opts.Host, errdefs.ErrInvalidArgument)
	}
	d := &net.Dialer{Timeout: dialTimeout}
	switch proto {
	case "unix":
		return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", addr) }, nil
	case "tcp", "http", "https":
		return tcpDialer(d, proto, addr, opts.TLS), nil
	case "ssh":
		return sshDialer(opts.Host)
	}
	return nil, fmt.Errorf("host %q: protocol %q is not one of unix, tcp, ssh: %w", opts.Host, proto, errdefs.ErrInvalidArgument)
}

func tcpDialer(d *net.Dialer, proto, addr string, conf *tls.Config) func(context.Context) (net.Conn, error) {
	addr, _, _ = strings.Cut(addr, "/")
	if proto == "https" && conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		port := "2375"
		if conf != nil {
			port = "2376"
		}
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), port)
	}
	if conf == nil {
		return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	td := &tls.Dialer{NetDialer: d, Config: conf}
	return func(ctx context.Context) (net.Conn, error) { return td.DialContext(ctx, "tcp", addr) }
}

// sshDialer runs ssh per connection and speaks to the daemon through 'docker system dial-stdio' on
// the far side, as docker's client does, so that a host set up for one serves the other.
func sshDialer(host string) (func(context.Context) (net.Conn, error), error) {
	u, err := url.Parse(host)
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("host %q: not an ssh URL: %w", host, errdefs.ErrInvalidArgument)
	}
	if _, hasPassword := u.User.Password(); hasPassword {
		return nil, fmt.Errorf("host of scheme ssh: a password in the URL is not supported, use keys: %w", errdefs.ErrInvalidArgument)
	}
	if strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-") {
		return nil, fmt.Errorf("host %q: a name may not begin with '-': %w", host, errdefs.ErrInvalidArgument)
	}
	args := []string{"-o", "ConnectTimeout=30", "-T"}
	if name := u.User.Username(); name != "" {
		args = append(args, "-l", name)
	}
	if port := u.Port(); port != "" {
		args = append(args, "-p", port)
	}
	args = append(args, "--", u.Hostname(), "docker")
	if u.Path != "" && u.Path != "/" {
		args = append(args, "--host", shellQuote("unix://"+u.Path))
	}
	args = append(args, "system", "dial-stdio")
	return func(context.Context) (net.Conn, error) { return startPipe(exec.Command("ssh", args...)) }, nil //nolint:noctx // a connection outlives the call that opened it; Close ends the process
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// pipeConn is a net.Conn over the standard streams of a child process.
type pipeConn struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	stderr *tailBuffer

	closeOnce sync.Once
	closeErr  error
}

func startPipe(cmd *exec.Cmd) (net.Conn, error) {
	p := &pipeConn{cmd: cmd, stderr: &tailBuffer{}}
	cmd.Stderr = p.stderr
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.stdout, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// Read reads from the process. At its end, what it wrote to stderr becomes the error if nothing
// else was said.
func (p *pipeConn) Read(b []byte) (int, error) {
	n, err := p.stdout.Read(b)
	if errors.Is(err, io.EOF) && n == 0 {
		if msg := p.stderr.String(); msg != "" {
			return 0, fmt.Errorf("%s: %s", p.cmd.Args[0], msg)
		}
	}
	return n, err
}

func (p *pipeConn) Write(b []byte) (int, error) { return p.stdin.Write(b) }

// CloseWrite passes end of file to the far side.
func (p *pipeConn) CloseWrite() error { return p.stdin.Close() }

// Close ends the process and waits for it.
func (p *pipeConn) Close() error {
	p.closeOnce.Do(func() {
		_ = p.stdin.Close()
		_ = p.cmd.Process.Signal(os.Interrupt)
		done := time.AfterFunc(time.Second, func() { _ = p.cmd.Process.Kill() })
		defer done.Stop()
		if err := p.cmd.Wait(); err != nil {
			if _, exited := errors.AsType[*exec.ExitError](err); !exited {
				p.closeErr = err
			}
		}
	})
	return p.closeErr
}

func (p *pipeConn) LocalAddr() net.Addr              { return pipeAddr(p.cmd.Path) }
func (p *pipeConn) RemoteAddr() net.Addr             { return pipeAddr(p.cmd.Path) }
func (p *pipeConn) SetDeadline(time.Time) error      { return nil }
func (p *pipeConn) SetReadDeadline(time.Time) error  { return nil }
func (p *pipeConn) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

// tailBuffer keeps the last bytes written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4 << 10

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if extra := len(t.buf) - tailSize; extra > 0 {
		t.buf = t.buf[extra:]
	}
	return len(b), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
