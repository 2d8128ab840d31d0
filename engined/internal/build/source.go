package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
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

// IgnorePatterns reads a .dockerignore. Errors are of class ErrInvalidArgument.
func IgnorePatterns(text []byte) ([]string, error) {
	list, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ignoreFile, err, errdefs.ErrInvalidArgument)
	}
	return list, nil
}

// lazy is a context that is asked for when somebody needs it.
type lazy struct {
	name    string
	source  Source
	paths   []string
	exclude []string
	local   bool // the client's

	once sync.Once
	tree files.Tree
	err  error
}

// contextTree returns the files of a context.
func (b *builder) contextTree(ctx context.Context, name string) (files.Tree, error) {
	l, ok := b.contexts[name]
	if !ok {
		return nil, fmt.Errorf("no context is called %q: %w", name, errdefs.ErrInvalidArgument)
	}
	l.once.Do(func() {
		if l.source == nil {
			l.tree = files.Empty()
			return
		}
		said := "[internal] load build context"
		if name != "" {
			said = "[context " + name + "] load"
			if l.local {
				said += " from client"
			}
		}
		l.err = b.task(said, func(*dockerfile.Vertex) (err error) {
			l.tree, err = l.source.Files(ctx, l.paths, l.exclude)
			return err
		})
	})
	return l.tree, l.err
}

// namedContexts says what the named contexts are: files, or the image that Base finds.
func (b *builder) namedContexts() map[string]string {
	out := map[string]string{}
	for name, n := range b.r.Named {
		out[name] = ""
		if n.Linked != nil || n.Source == nil && (strings.HasPrefix(n.Ref, schemeImage) || strings.HasPrefix(n.Ref, schemeLayout)) {
			out[name] = contextImage + name
		}
		if n.Ref == schemeImage+"scratch" {
			out[name] = "scratch"
		}
	}
	return out
}

// Schemes of Named.Ref that are images.
const (
	schemeImage  = "docker-image://"
	schemeLayout = "oci-layout://"
)

// contextImage marks the reference of a base that is the named context after it.
const contextImage = "named-context:"

// openContexts prepares the contexts that plans take files from.
func (b *builder) openContexts(plans []*dockerfile.Plan) error {
	exclude, err := IgnorePatterns(b.r.Dockerfile.Ignore)
	if err != nil {
		return err
	}
	b.contexts = map[string]*lazy{"": {source: b.r.Context, exclude: exclude, paths: contextPaths("", plans)}}
	for name, n := range b.r.Named {
		l := &lazy{name: name, source: n.Source, paths: contextPaths(name, plans), local: n.Source != nil}
		if n.Source == nil {
			l.source = &fetchedSource{b, n.Ref}
		}
		b.contexts[name] = l
	}
	return nil
}

// fetchedSource is a named context that the engine fetches.
type fetchedSource struct {
	b   *builder
	ref string
}

// Files implements Source.
func (f *fetchedSource) Files(ctx context.Context, _, exclude []string) (files.Tree, error) {
	r, err := f.b.s.Remote(ctx, f.ref, f.b.r.Secrets, f.b.r.SSH)
	if err != nil {
		return nil, err
	}
	f.b.later(func() { _ = r.Close() }) // only files of the build
	f.b.fetchedFrom(r.Origin)
	return r.Files(ctx, nil, exclude)
}

// beforeAnyDirectory cuts paths before "**", which no client follows.
func beforeAnyDirectory(list []string) []string {
	for i, p := range list {
		if before, _, ok := strings.Cut("/"+p+"/", "/**/"); ok {
			list[i] = before
		}
	}
	return list
}

// contextPaths is what plans take from a context: nil for all of it.
func contextPaths(name string, plans []*dockerfile.Plan) []string {
	out := []string{}
	for _, p := range plans {
		for _, v := range p.Vertices {
			switch {
			case v.Copy != nil && v.Copy.From == nil && v.Copy.Context == name:
				out = append(out, v.Copy.Sources...)
				if v.Copy.Parents {
					out = beforeAnyDirectory(out)
				}
			case v.Run != nil:
				for _, m := range v.Run.Mounts {
					if m.Type == dockerfile.MountBind && m.FromContext && m.Context == name {
						out = append(out, m.Source)
					}
				}
			}
		}
	}
	for i, p := range out {
		out[i] = strings.Trim(path.Clean("/"+p), "/")
		if out[i] == "" {
			return nil
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
