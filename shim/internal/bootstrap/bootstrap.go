package bootstrap

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// DefaultSocketDir is containerd's directory of shim sockets.
const DefaultSocketDir = "/run/containerd/s"

// maxStdin and maxSpec bound what is read of a daemon's request and of a bundle, in
// bytes.
const (
	maxStdin = 4 << 20
	maxSpec  = 16 << 20
)

// Protocol is how the daemon wants its answer.
type Protocol uint8

// The protocols.
const (
	Plain  Protocol = iota // the address alone
	JSON                   // {"version":2,…}
	Params                 // BootstrapResult
)

// Request is what the daemon wants.
type Request struct {
	Protocol Protocol
	// Options are the runtime's; nil if none were given.
	Options *anypb.Any
	// TTRPCAddress is where events go; empty if the request does not say.
	TTRPCAddress string
	// SocketDir is where the socket goes.
	SocketDir string
	Debug     bool
}

// Read reads the request of a daemon that starts the shim for a container in a namespace.
// With BootstrapParams it must name the same two; anything else on stdin is taken for
// options. MAX_SHIM_VERSION in the environment tells daemons that understand JSON.
func Read(stdin io.Reader, namespace, containerID string) (Request, error) {
	data, err := io.ReadAll(io.LimitReader(stdin, maxStdin))
	if err != nil {
		return Request{}, fmt.Errorf("read bootstrap request: %w", err)
	}
	if r, ok := readParams(data, namespace, containerID); ok {
		return r, nil
	}
	r := Request{Protocol: Plain, SocketDir: DefaultSocketDir}
	if os.Getenv("MAX_SHIM_VERSION") != "" {
		r.Protocol = JSON
	}
	if len(data) == 0 {
		return r, nil
	}
	r.Options = &anypb.Any{}
	if err := proto.Unmarshal(data, r.Options); err != nil {
		return Request{}, fmt.Errorf("decode bootstrap request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

func readParams(data []byte, namespace, containerID string) (Request, bool) {
	var p bootstrap.BootstrapParams
	if len(data) == 0 || proto.Unmarshal(data, &p) != nil || p.GetInstanceID() != containerID || p.GetNamespace() != namespace {
		return Request{}, false
	}
	r := Request{
		Protocol: Params, TTRPCAddress: p.GetContainerdTtrpcAddress(), SocketDir: p.GetSocketDir(),
		Debug: p.GetLogLevel() <= bootstrap.LogLevel_LOG_LEVEL_DEBUG,
	}
	if r.SocketDir == "" {
		r.SocketDir = DefaultSocketDir
	}
	for _, e := range p.GetExtensions() {
		// The runtime's options are the only extension that matters here.
		if name := e.GetValue().MessageName().Name(); name == "Options" {
			r.Options = e.GetValue()
		}
	}
	return r, true
}

// Reply writes the answer: the shim listens on socket.
func (r Request) Reply(stdout io.Writer, socket string) error {
	address := "unix://" + socket
	var data []byte
	var err error
	switch r.Protocol {
	case Params:
		data, err = proto.Marshal(&bootstrap.BootstrapResult{Version: 3, Address: address, Protocol: "ttrpc"})
	case JSON:
		data, err = json.Marshal(struct {
			Version  int    `json:"version"`
			Address  string `json:"address"`
			Protocol string `json:"protocol"`
		}{2, address, "ttrpc"})
	default:
		data = []byte(address)
	}
	if err != nil {
		return fmt.Errorf("encode bootstrap reply: %w", err)
	}
	if _, err := stdout.Write(data); err != nil {
		return fmt.Errorf("write bootstrap reply: %w", err)
	}
	return nil
}

// The annotations that name the group of a container. The first that is set counts.
const (
	groupAnnotation = "io.containerd.runc.v2.group"
	podAnnotation   = "io.kubernetes.cri.sandbox-id"
)

// Group returns the group of the container in bundle, or containerID if it has none.
func Group(bundle, containerID string) (string, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return "", fmt.Errorf("read group: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec))
	if err != nil {
		return "", fmt.Errorf("read group: %w", err)
	}
	if !bytes.Contains(data, []byte(groupAnnotation)) && !bytes.Contains(data, []byte(podAnnotation)) {
		return containerID, nil // saves most starts the time to parse
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("decode spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, name := range []string{groupAnnotation, podAnnotation} {
		if g := spec.Annotations[name]; g != "" {
			return g, nil
		}
	}
	return containerID, nil
}

// Socket returns the path of the socket of a group.
func Socket(dir, daemonAddress, namespace, group string) string {
	sum := sha256.Sum256([]byte(filepath.Join(daemonAddress, namespace, group)))
	return filepath.Join(dir, hex.EncodeToString(sum[:]))
}

// dialTimeout bounds the test whether somebody listens.
const dialTimeout = 2 * time.Second

// Listen listens on path, mode 0600. It returns nil if a shim listens there already;
// what a dead one has left is replaced.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("make socket directory: %w", err)
	}
	for try := 0; ; try++ {
		l, err := bind(path)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || try > 1 {
			return l, err
		}
		conn, dialErr := net.DialTimeout("unix", path, dialTimeout)
		if dialErr == nil {
			return nil, conn.Close()
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
}

func bind(path string) (*net.UnixListener, error) {
	old := syscall.Umask(0o177) // this process does nothing else meanwhile
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false) // the server goes on with it
	return l, nil
}
