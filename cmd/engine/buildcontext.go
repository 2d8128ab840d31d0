package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
	"strata/pkg/buildkit"
)

// setBuildContext finds out what PATH and --file mean. done, never nil, removes what was
// made for the build.
func setBuildContext(b *buildclient.Build, c *cli.Context, stdin io.Reader) (done func(), err error) {
	path, file := c.Args().First(), c.String("file")
	set := &contextSetter{b: b, file: file, stdin: stdin}
	switch {
	case path == "-" && file == "-":
		err = errors.New("invalid argument: can't use stdin for both build context and dockerfile")
	case path == "-":
		err = set.fromStdin()
	case isRemoteContext(path):
		err = set.fromURL(path)
	default:
		err = set.fromDir(path)
	}
	if err == nil {
		err = namedContexts(b, c.StringSlice("build-context"))
	}
	return set.done, err
}

// isRemoteContext reports whether the daemon is to fetch the context.
func isRemoteContext(path string) bool {
	for _, p := range []string{"http://", "https://", "git://", "git@", "ssh://", "github.com/"} {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

type contextSetter struct {
	b     *buildclient.Build
	file  string
	stdin io.Reader
	made  []string
}

func (s *contextSetter) done() {
	for _, dir := range s.made {
		_ = os.RemoveAll(dir) // in the directory for what nobody misses
	}
}

// fromStdin takes a tar, or a Dockerfile alone.
func (s *contextSetter) fromStdin() error {
	r := bufio.NewReaderSize(s.stdin, 1<<16)
	head, err := r.Peek(512)
	if len(head) == 0 {
		return fmt.Errorf("unable to prepare context: nothing on stdin: %w", err)
	}
	if isArchiveHead(head) {
		s.b.Uploads = map[string]io.Reader{"context": r}
		s.b.Attrs[buildkit.LocalContext] = buildclient.UploadURL("context")
		if s.file != "" {
			s.b.Attrs["filename"] = filepath.ToSlash(s.file)
		}
		return nil
	}
	if s.file != "" {
		return errors.New("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
	}
	dir, err := s.temp()
	if err != nil {
		return err
	}
	s.b.Dirs[buildkit.LocalContext] = dir
	return s.dockerfileFrom(r)
}

func isArchiveHead(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\x28\xb5\x2f\xfd", "\xfd7zXZ"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

func (s *contextSetter) temp() (string, error) {
	dir, err := os.MkdirTemp("", "engine-build-")
	if err == nil {
		s.made = append(s.made, dir)
	}
	return dir, err
}

// dockerfileFrom takes a Dockerfile that is in no directory.
func (s *contextSetter) dockerfileFrom(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	dir, err := s.temp()
	if err != nil {
		return err
	}
	s.dockerfileIn(dir, "Dockerfile")
	s.b.Attrs["dockerfilekey"] = buildkit.LocalDockerfile
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), text, 0o600)
}

func (s *contextSetter) dockerfileIn(dir, name string) {
	s.b.Dirs[buildkit.LocalDockerfile] = dir
	s.b.Attrs["filename"] = name
}

func (s *contextSetter) fromURL(url string) error {
	s.b.Attrs[buildkit.LocalContext] = url
	switch {
	case s.file == "-":
		return s.dockerfileFrom(s.stdin)
	case filepath.IsAbs(s.file):
		s.dockerfileIn(filepath.Dir(s.file), filepath.Base(s.file))
		s.b.Attrs["dockerfilekey"] = buildkit.LocalDockerfile
	case s.file != "":
		s.b.Attrs["filename"] = filepath.ToSlash(s.file)
	}
	return nil
}

func (s *contextSetter) fromDir(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("unable to prepare context: path %q not found", path)
	}
	if !info.IsDir() {
		return fmt.Errorf("unable to prepare context: context must be a directory: %s", path)
	}
	s.b.Dirs[buildkit.LocalContext] = path
	if s.b.SharedKey, err = sharedKey(path); err != nil {
		return err
	}
	if s.file == "-" {
		return s.dockerfileFrom(s.stdin)
	}
	full := s.file
	if full == "" {
		full = filepath.Join(path, "Dockerfile")
	}
	if _, err := os.Stat(full); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat %s: no such file or directory", full)
		}
		return err
	}
	s.dockerfileIn(filepath.Dir(full), filepath.Base(full))
	return nil
}

// sharedKey tells a directory of this machine from all others, without saying where it is.
func sharedKey(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	machine, _ := os.ReadFile("/etc/machine-id") // where there is none, the name must do
	host, _ := os.Hostname()                     // the same
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", machine, host, abs))
	return hex.EncodeToString(sum[:16]), nil
}

// layoutScheme is that of contexts in OCI layouts.
const layoutScheme = "oci-layout://"

// layoutContext reads DIR, DIR:TAG and DIR@DIGEST. The daemon does not learn which DIR.
func layoutContext(b *buildclient.Build, name, layout string) error {
	dir, sum, pinned := strings.Cut(layout, "@")
	tag := ""
	if i := strings.LastIndexByte(dir, ':'); i > strings.LastIndexByte(dir, '/') {
		dir, tag = dir[:i], dir[i+1:]
	}
	if !pinned {
		d, err := buildclient.FindInLayout(dir, tag)
		if err != nil {
			return err
		}
		sum = d.String()
	}
	if b.Layouts == nil {
		b.Layouts = map[string]string{}
	}
	store := fmt.Sprint("layout", len(b.Layouts))
	b.Layouts[store], b.Attrs["context:"+name] = dir, layoutScheme+store+"@"+sum
	return nil
}

// namedContexts reads NAME=PATH, NAME=URL, NAME=docker-image://REFERENCE, NAME=oci-layout://DIR.
func namedContexts(b *buildclient.Build, list []string) error {
	for _, spec := range list {
		name, value, ok := strings.Cut(spec, "=")
		if !ok || name == "" || value == "" {
			return fmt.Errorf("invalid context value: %s, expected key=value", spec)
		}
		name = strings.ToLower(name)
		if layout, ok := strings.CutPrefix(value, layoutScheme); ok {
			if err := layoutContext(b, name, layout); err != nil {
				return fmt.Errorf("failed to get build context %s: %w", name, err)
			}
			continue
		}
		if isRemoteContext(value) || strings.HasPrefix(value, "docker-image://") {
			b.Attrs["context:"+name] = value
			continue
		}
		info, err := os.Stat(value)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("not a directory: %s", value)
		}
		if err != nil {
			return fmt.Errorf("failed to get build context %s: %w", name, err)
		}
		key, err := sharedKey(value)
		if err != nil {
			return err
		}
		b.Dirs[name], b.Attrs["context:"+name], b.Attrs["sharedkey:localdir:"+name] = value, "local:"+name, key
	}
	return nil
}
