package shims

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// bootstrap is how to reach a shim: the content of bootstrap.json.
type bootstrap struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// maxVersion is the newest version of the task service that we speak.
const maxVersion = 3

// startProtocol is how a shim wants to be told what to do.
type startProtocol uint8

const (
	protocolUnknown   startProtocol = iota // not tried yet
	protocolBootstrap                      // BootstrapParams on stdin
	protocolLegacy                         // runtime options on stdin
)

// maxSocketPath is the longest name of a unix socket, without the final zero (unix(7)).
const maxSocketPath = 107

// startInput returns what goes to the stdin of "start".
func (l *Launcher) startInput(p startProtocol, b *Bundle, opts *anypb.Any) ([]byte, error) {
	if p == protocolLegacy {
		if opts == nil {
			return nil, nil
		}
		return proto.Marshal(opts)
	}
	params := &bootapi.BootstrapParams{
		InstanceID: b.ID, Namespace: b.Namespace,
		ContainerdVersion: l.cfg.Version, ContainerdGrpcAddress: l.cfg.Address, ContainerdTtrpcAddress: l.cfg.Address + ".ttrpc",
		ContainerdBinary: l.cfg.Executable,
	}
	if l.cfg.Debug {
		params.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	// A directory of our own keeps two instances apart and everything below one
	// path; a socket's name in it is a slash and 64 digits.
	if dir := l.socketDir(); len(dir)+1+64 <= maxSocketPath {
		params.SocketDir = &dir
	}
	if opts != nil {
		params.Extensions = []*bootapi.Extension{{Value: opts}}
	}
	return proto.Marshal(params)
}

func (l *Launcher) socketDir() string { return filepath.Join(l.cfg.State, "s") }

// parseReply reads what a shim printed: a BootstrapResult, its JSON, or an address.
func parseReply(out []byte) (bootstrap, error) {
	text := bytes.TrimSpace(out)
	var b bootstrap
	switch {
	case len(text) == 0:
		return b, fmt.Errorf("shim printed no address: %w", errdefs.ErrUnavailable)
	case text[0] == '{':
		if err := json.Unmarshal(text, &b); err != nil {
			return b, fmt.Errorf("decode answer of shim %q: %w", text, err)
		}
	case bytes.HasPrefix(text, []byte("unix:")) || text[0] == '/':
		b = bootstrap{Version: 2, Address: string(text), Protocol: "ttrpc"}
	default:
		var r bootapi.BootstrapResult
		if err := proto.Unmarshal(out, &r); err != nil || r.Address == "" {
			return b, fmt.Errorf("answer of shim is neither an address, JSON nor a BootstrapResult: %q", truncate(out)) // the text says it
		}
		b = bootstrap{Version: int(r.Version), Address: r.Address, Protocol: r.Protocol}
	}
	if b.Protocol == "" {
		b.Protocol = "ttrpc"
	}
	if b.Version < 2 || b.Version > maxVersion {
		return b, fmt.Errorf("shim speaks version %d of the task service, we speak 2 to %d: %w", b.Version, maxVersion, errdefs.ErrNotImplemented)
	}
	if b.Protocol != "ttrpc" {
		return b, fmt.Errorf("shim speaks %q, we speak ttrpc: %w", b.Protocol, errdefs.ErrNotImplemented)
	}
	return b, nil
}

func truncate(b []byte) []byte { return b[:min(len(b), 256)] }

// wantsLegacy reports whether a shim's complaint means that it took BootstrapParams for
// the runtime options of the older protocol: the id stands where it expects a type URL.
func wantsLegacy(complaint string) bool {
	for _, s := range []string{"type with url", "cannot parse invalid wire-format data", "proto: illegal", "proto: wrong wireType", "unexpected EOF"} {
		if strings.Contains(complaint, s) {
			return true
		}
	}
	return false
}

// readBootstrap returns how the shim of a bundle was reached. os.ErrNotExist means that
// it was never written down.
func (b *Bundle) readBootstrap() (bootstrap, error) {
	data, err := b.ReadFile(fileBootstrap)
	if err != nil {
		var aerr error
		if data, aerr = b.ReadFile(fileAddress); aerr != nil {
			return bootstrap{}, err
		}
	}
	boot, err := parseReply(data)
	if err != nil {
		return boot, fmt.Errorf("read %s: %w", fileBootstrap, err)
	}
	return boot, nil
}

func (b *Bundle) writeBootstrap(boot bootstrap) error {
	data, err := json.Marshal(boot)
	if err != nil {
		return errors.Join(err)
	}
	return b.WriteFile(fileBootstrap, data)
}

// removeSocket removes the socket of a dead shim; one that somebody answers on stays. Where
// it was never written down it has the name that shims give it.
//
// Source: containerd's shim v2: the SHA-256 of ADDRESS/NAMESPACE/GROUP; a task without a
// pod is its own group.
func (l *Launcher) removeSocket(b *Bundle) {
	sum := sha256.Sum256([]byte(filepath.Join(l.cfg.Address, b.Namespace, b.ID)))
	path := filepath.Join(l.socketDir(), hex.EncodeToString(sum[:]))
	if boot, err := b.readBootstrap(); err == nil {
		path = strings.TrimPrefix(boot.Address, "unix://")
	}
	if filepath.IsAbs(path) && isDead(path) {
		_ = os.Remove(path) // it is in nobody's way: the next shim of that name replaces it
	}
}

// SweepSockets removes the sockets that nobody listens on any more. It finds those of shims
// that died before their address was written down; call it when no shim is being started.
func (l *Launcher) SweepSockets() {
	paths, _ := filepath.Glob(filepath.Join(l.socketDir(), "*")) // the pattern is well formed
	for _, path := range paths {
		if isDead(path) {
			_ = os.Remove(path) // as above
		}
	}
}

// isDead reports whether a socket is there and refuses connections.
func isDead(path string) bool {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
