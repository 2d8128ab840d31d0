package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
)

// Receive keeps a build context that comes as a tar. Close it after the build.
func (s *Service) Receive(r interface{ Read([]byte) (int, error) }) (*files.Context, error) {
	return files.Receive(r, s.tmpDir(), contextLimits)
}

// defaultDockerfile is a Dockerfile's name if nobody says another.
const defaultDockerfile = "Dockerfile"

// ReadDefinition reads the Dockerfile called name ("" for the default) in t, and the file
// of patterns that goes with it.
func ReadDefinition(t files.Tree, name string) (Definition, error) {
	if name == "" {
		name = defaultDockerfile
	}
	d := Definition{Name: name}
	var err error
	d.Text, err = files.ReadFile(t, name, dockerfile.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("Cannot locate specified Dockerfile: %s: %w", name, errdefs.ErrInvalidArgument) //nolint:staticcheck // dockerd's words
	}
	if err != nil {
		return d, fmt.Errorf("Dockerfile: %w", err) //nolint:staticcheck // its name
	}
	d.Ignore, err = files.ReadFile(t, ignoreFile, dockerfile.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return d, err
}

// ignoreFile is the file of patterns of a context.
const ignoreFile = ".dockerignore"

// Sent is the source that a client has sent: what is to be ignored is not there, but for
// the Dockerfile called name and .dockerignore, which the client could not leave out.
func Sent(c *files.Context, name string) Source {
	if name == "" {
		name = defaultDockerfile
	}
	return &sent{c, name}
}

type sent struct {
	files *files.Context
	name  string
}

// Files implements Source.
func (s *sent) Files(_ context.Context, _, exclude []string) (files.Tree, error) {
	m, err := patternmatcher.New(exclude)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ignoreFile, err, errdefs.ErrInvalidArgument)
	}
	for _, name := range []string{s.name, ignoreFile} {
		out, err := m.MatchesOrParentMatches(strings.TrimPrefix(name, "/"))
		if err == nil && out {
			s.files.Remove(name)
		}
	}
	return s.files, nil
}

// patterns reads a .dockerignore.
func patterns(text []byte) ([]string, error) {
	list, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ignoreFile, err, errdefs.ErrInvalidArgument)
	}
	return list, nil
}

// lazy is a context that is asked for when somebody needs it.
type lazy struct {
	source  Source
	paths   []string
	exclude []string

	once sync.Once
	tree files.Tree
	err  error
}

// get returns the tree.
func (l *lazy) get(ctx context.Context) (files.Tree, error) {
	l.once.Do(func() {
		if l.source == nil {
			l.tree = files.Empty()
			return
		}
		l.tree, l.err = l.source.Files(ctx, l.paths, l.exclude)
	})
	return l.tree, l.err
}

// contextPaths is what the vertices of plans take from the main context: nil for all of
// it.
func contextPaths(plans ...*dockerfile.Plan) []string {
	out := []string{}
	for _, p := range plans {
		for _, v := range p.Vertices {
			switch {
			case v.Copy != nil && v.Copy.From == nil:
				out = append(out, v.Copy.Sources...)
			case v.Run != nil:
				for _, m := range v.Run.Mounts {
					if m.Type == dockerfile.MountBind && m.FromContext {
						out = append(out, m.Source)
					}
				}
			}
		}
	}
	for i, p := range out {
		out[i] = strings.Trim(p, "/")
		if out[i] == "" || out[i] == "." {
			return nil
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
