package containers

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/store"
	"strata/pkg/identifiers"
	"strata/pkg/shimio"
)

// shimRuntime is the runtime whose shim holds the streams itself.
const shimRuntime = "io.containerd.strata.v2"

// streams says where the streams of a process go.
type streams struct {
	socket string // the attach socket
	stdin  string // a FIFO under a foreign shim, else ""
	stdout string // the URI
}

// LogPath returns where a container's log file is.
func (s *Service) LogPath(containerID string) string {
	return filepath.Join(s.dir(containerID), containerID+"-json.log")
}

// socketPath returns an attach socket: short, because the kernel takes 107 bytes.
//
// Source: unix(7).
func (s *Service) socketPath(id string) string {
	return filepath.Join(s.cfg.ExecRoot, "attach", id[:16]+".sock")
}

// stdio returns the streams of a container's init process.
func (s *Service) stdio(d *store.Definition) (streams, error) {
	u := shimio.URI{Socket: s.socketPath(d.ID), Terminal: d.Config.Tty}
	switch {
	case d.Config.OpenStdin && d.Config.StdinOnce:
		u.Stdin = shimio.StdinOnce
	case d.Config.OpenStdin:
		u.Stdin = shimio.StdinKeep
	}
	if err := s.logTo(&u, d); err != nil {
		return streams{}, err
	}
	return s.uri(d.Runtime, u)
}

// ExecStdio returns the streams of an exec in container c.
func (s *Service) ExecStdio(c *Container, execID string, stdin, tty bool) (socket, stdinPath, stdout string, err error) {
	u := shimio.URI{Socket: s.socketPath(execID), Terminal: tty}
	if stdin {
		u.Stdin = shimio.StdinOnce
	}
	io, err := s.uri(c.Definition().Runtime, u)
	return io.socket, io.stdin, io.stdout, err
}

// Foreign reports whether a container runs under a shim that is not ours.
func (s *Service) Foreign(c *Container) bool { return c.Definition().Runtime != shimRuntime }

// uri gives u the form that the runtime understands.
func (s *Service) uri(runtime string, u shimio.URI) (streams, error) {
	out := streams{socket: u.Socket}
	if err := os.MkdirAll(filepath.Dir(u.Socket), 0o711); err != nil {
		return out, fmt.Errorf("make directory of attach sockets: %w", err)
	}
	if runtime == shimRuntime {
		u.Terminal = false // our shim knows
		out.stdout = u.String()
		return out, nil
	}
	if u.Stdin != shimio.StdinNone {
		if !u.Terminal {
			// A stock shim connects stdin only to FIFOs or to a terminal, never beside a logger.
			return out, fmt.Errorf("runtime %s cannot pass on stdin without a terminal; add -t, or use runtime %s: %w", runtime, shimRuntime, errdefs.ErrNotImplemented)
		}
		u.StdinFIFO = strings.TrimSuffix(u.Socket, ".sock") + ".stdin"
		if err := syscall.Mkfifo(u.StdinFIFO, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return out, &os.PathError{Op: "mkfifo", Path: u.StdinFIFO, Err: err}
		}
		out.stdin = u.StdinFIFO
	}
	out.stdout = u.Binary(s.cfg.ShimPath)
	return out, nil
}

// defaultLogBuffer is the max-buffer-size of mode=non-blocking, in bytes; dockerd's.
const defaultLogBuffer = 1 << 20

// logTo fills in the log file and its rotation.
func (s *Service) logTo(u *shimio.URI, d *store.Definition) error {
	lc := d.Host.LogConfig
	if lc.Type == "none" {
		return nil
	}
	u.LogPath = s.LogPath(d.ID)
	opts := map[string]string{}
	if lc.Type == "local" {
		opts = map[string]string{"max-size": "20m", "max-file": "5", "compress": "true"}
	}
	maps.Copy(opts, lc.Config)
	if v := opts["max-size"]; v != "" && v != "-1" {
		n, err := units.RAMInBytes(v)
		if err != nil {
			return invalid("invalid value for max-size: %s", v)
		}
		u.MaxSize = n
	}
	if v := opts["max-file"]; v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return invalid("invalid value for max-file: %s", v)
		}
		u.MaxFile = n
	}
	if opts["mode"] == string(container.LogModeNonBlock) {
		if u.Buffer = defaultLogBuffer; opts["max-buffer-size"] != "" {
			n, err := units.RAMInBytes(opts["max-buffer-size"])
			if err != nil {
				return invalid("error parsing option max-buffer-size: %v", err)
			}
			u.Buffer = max(n, 1)
		}
	}
	u.Gzip, _ = strconv.ParseBool(opts["compress"]) // anything else is no
	if lc.Type == "json-file" {
		attrs, err := logAttrs(d, opts)
		if err != nil {
			return err
		}
		u.Attrs = attrs
	}
	return nil
}

// logAttrs are the labels and variables that the user wants in each log line.
func logAttrs(d *store.Definition, opts map[string]string) (map[string]string, error) {
	env := map[string]string{}
	for _, kv := range d.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	attrs := map[string]string{}
	for _, from := range []struct {
		values      map[string]string
		list, regex string
	}{{d.Config.Labels, opts["labels"], opts["labels-regex"]}, {env, opts["env"], opts["env-regex"]}} {
		for name := range strings.SplitSeq(from.list, ",") {
			if v, ok := from.values[name]; ok && name != "" {
				attrs[name] = v
			}
		}
		if from.regex == "" {
			continue
		}
		re, err := regexp.Compile(from.regex)
		if err != nil {
			return nil, invalid("invalid log option %q: %v", from.regex, err)
		}
		for k, v := range from.values {
			if re.MatchString(k) {
				attrs[k] = v
			}
		}
	}
	if tag := opts["tag"]; tag != "" {
		attrs["tag"] = expandTag(d, tag)
	}
	if len(attrs) == 0 {
		return nil, nil
	}
	return attrs, nil
}

func expandTag(d *store.Definition, tag string) string {
	return strings.NewReplacer(
		"{{.ID}}", identifiers.Short(d.ID), "{{.FullID}}", d.ID, "{{.Name}}", d.Name,
		"{{.ImageName}}", d.Config.Image, "{{.ImageID}}", identifiers.Short(d.Image.ID.Encoded()), "{{.ImageFullID}}", d.Image.ID.String(),
		"{{.DaemonName}}", "docker",
	).Replace(tag)
}

// RemoveStreams removes what a container's or an exec's streams have left behind.
func (s *Service) RemoveStreams(id string) {
	path := s.socketPath(id)
	for _, p := range []string{path, strings.TrimSuffix(path, ".sock") + ".stdin"} {
		_ = os.Remove(p) // usually gone already; tmpfs
	}
}
