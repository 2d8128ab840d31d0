package engined

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"

	"strata/pkg/ctxlog"
)

// listen opens every address of the configuration: unix://PATH, tcp://HOST:PORT, and
// fd:// for the sockets that systemd opened.
func listen(ctx context.Context, cfg Config) (_ []net.Listener, err error) {
	var out []net.Listener
	defer func() {
		if err != nil {
			for _, l := range out {
				err = errors.Join(err, l.Close())
			}
		}
	}()
	for _, h := range cfg.Hosts {
		scheme, rest, ok := strings.Cut(h, "://")
		if !ok {
			return out, fmt.Errorf("invalid bind address format: %s: %w", h, errdefs.ErrInvalidArgument)
		}
		var ls []net.Listener
		switch scheme {
		case "unix":
			ls, err = listenUnix(rest, cfg.Group)
		case "tcp":
			ls, err = listenTCP(ctx, rest, cfg)
		case "fd":
			ls, err = activated(cfg)
		default:
			err = fmt.Errorf("invalid protocol %q in %s: %w", scheme, h, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return out, err
		}
		out = append(out, ls...)
	}
	return out, nil
}

func listenUnix(path, group string) ([]net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close() // it answered: that is all we wanted to know
		return nil, fmt.Errorf("listen on %s: another daemon answers there: %w", path, errdefs.ErrUnavailable)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	gid, err := socketGroup(group)
	if err == nil {
		err = errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return []net.Listener{l}, nil
}

// socketGroup returns the group that may use the socket: the configured one, which must
// exist, else strata, else docker, else root.
func socketGroup(name string) (int, error) {
	names := []string{"strata", "docker"}
	if name != "" {
		if n, err := strconv.Atoi(name); err == nil {
			return n, nil
		}
		names = []string{name}
	}
	for _, n := range names {
		if g, err := user.LookupGroup(n); err == nil {
			return strconv.Atoi(g.Gid)
		}
	}
	if name != "" {
		return 0, fmt.Errorf("group %s not found: %w", name, errdefs.ErrInvalidArgument)
	}
	return 0, nil
}

func listenTCP(ctx context.Context, address string, cfg Config) ([]net.Listener, error) {
	tc, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	if tc == nil {
		ctxlog.From(ctx).Warn("API is open without TLS: whoever reaches it owns this host", ctxlog.Address, address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on tcp://%s: %w", address, err)
	}
	if tc != nil {
		l = tls.NewListener(l, tc)
	}
	return []net.Listener{l}, nil
}

// tlsConfig returns nil if the configuration wants no TLS.
func tlsConfig(cfg Config) (*tls.Config, error) {
	verify := cfg.TLSVerify != nil && *cfg.TLSVerify
	if !verify && (cfg.TLS == nil || !*cfg.TLS) {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("could not load X509 key pair: %w", err)
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if !verify {
		return tc, nil
	}
	pem, err := os.ReadFile(cfg.TLSCA)
	if err != nil {
		return nil, fmt.Errorf("could not read CA certificate: %w", err)
	}
	tc.ClientCAs, tc.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !tc.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s: %w", cfg.TLSCA, errdefs.ErrInvalidArgument)
	}
	return tc, nil
}

// activated returns the sockets that systemd opened; TCP ones speak TLS if the
// configuration says so.
func activated(cfg Config) ([]net.Listener, error) {
	ls, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("sockets of systemd: %w", err)
	}
	var out []net.Listener
	tc, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	for _, l := range ls {
		if l == nil {
			continue
		}
		if tc != nil && l.Addr().Network() == "tcp" {
			l = tls.NewListener(l, tc)
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no sockets found via socket activation: make sure the service was started by systemd: %w", errdefs.ErrInvalidArgument)
	}
	return out, nil
}
