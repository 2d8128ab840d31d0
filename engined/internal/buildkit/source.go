package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build"
	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
	"strata/engined/internal/buildkit/session"
	"strata/engined/internal/buildkit/synced"
	"strata/pkg/buildkit"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
)

// inputs finds the Dockerfile and the contexts of a result.
type inputs struct {
	j    *job
	r    *result
	undo *cleanup.Stack
}

// fill sets Dockerfile, Context and Named of req.
func (in *inputs) fill(ctx context.Context, req *build.Request) error {
	if err := in.named(req); err != nil {
		return err
	}
	contextDir := in.attr(attrContextName, buildkit.LocalContext)
	given := in.r.inputs[buildkit.LocalContext].remote
	switch remote := in.r.attrs[contextDir]; {
	case given != nil && given.file == "":
		return in.remote(ctx, given.url, req)
	case given != nil:
		return unimplemented("a file by HTTP as the context")
	case in.j.body != nil:
		return in.j.story.step(remoteName, func(said progress) error {
			return in.archive(ctx, &counting{Reader: in.j.body, said: func(n int64) { said("transferring context:", n, 0) }}, req)
		})
	case remote == "":
		req.Context = &local{in: in, dir: contextDir, step: contextName}
		return in.definition(ctx, req, in.attr(attrFileName, buildkit.LocalDockerfile), contextDir)
	case isUpload(remote):
		return in.uploaded(ctx, remote, req)
	default:
		return in.remote(ctx, remote, req)
	}
}

func (in *inputs) attr(name, otherwise string) string {
	if v := in.r.attrs[name]; v != "" {
		return v
	}
	return otherwise
}

// definition reads the Dockerfile in a directory of the client, and the patterns beside it or
// in the context.
func (in *inputs) definition(ctx context.Context, req *build.Request, dir, contextDir string) error {
	name := in.attr(attrFilename, "Dockerfile")
	d := build.Definition{Name: path.Base(name)}
	err := in.j.story.step(definitionName(d.Name), func(said progress) error {
		tree, err := in.few(ctx, dir, []string{name, name + ignoreSuffix, lower(name)}, "transferring dockerfile:", said)
		if err != nil {
			return err
		}
		defer func() { _ = tree.Close() }() // only read
		d.Text, err = files.ReadFile(tree, name, dockerfile.MaxSize)
		if errors.Is(err, fs.ErrNotExist) && lower(name) != name {
			d.Text, err = files.ReadFile(tree, lower(name), dockerfile.MaxSize)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("failed to read dockerfile: open %s: no such file or directory: %w", name, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return fmt.Errorf("failed to read dockerfile: %w", err)
		}
		d.Ignore, err = files.ReadFile(tree, name+ignoreSuffix, dockerfile.MaxSize)
		return notThere(err)
	})
	if err != nil {
		return err
	}
	if d.Ignore == nil && contextDir != "" {
		err = in.j.story.step(ignoreName, func(said progress) error {
			tree, err := in.few(ctx, contextDir, []string{ignoreSuffix}, "transferring context:", said)
			if errdefs.IsNotFound(err) {
				return nil // a client without a context: whatever needs one says so
			}
			if err != nil {
				return err
			}
			defer func() { _ = tree.Close() }() // only read
			d.Ignore, err = files.ReadFile(tree, ignoreSuffix, dockerfile.MaxSize)
			return notThere(err)
		})
	}
	req.Dockerfile = d
	return err
}

// ignoreSuffix is the file of patterns of a context, and what the name of a Dockerfile's own
// ends with.
const ignoreSuffix = ".dockerignore"

// lower is what "Dockerfile" may be called, too.
func lower(name string) string {
	if path.Base(name) == "Dockerfile" {
		return path.Join(path.Dir(name), "dockerfile")
	}
	return name
}

func notThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

type progress = func(what string, current, total int64)

// few gets some files of the client that are not worth keeping.
func (in *inputs) few(ctx context.Context, dir string, names []string, what string, said progress) (*synced.Tree, error) {
	s, err := in.sessionOf(ctx, dir)
	if err != nil {
		return nil, err
	}
	var tree *synced.Tree
	said(what, 0, 0)
	err = s.Files(ctx, session.FilesRequest{Dir: dir, Follow: names}, func(ctx context.Context, p session.Packets) (err error) {
		tree, err = in.j.s.contexts.Once(ctx, p, func(n int64) { said(what, n, 0) })
		return err
	})
	return tree, err
}

// sessionOf returns the session that has a directory: the build's, or one that an attribute
// names.
func (in *inputs) sessionOf(ctx context.Context, dir string) (*session.Session, error) {
	if id := in.r.attrs[prefixSession+dir]; id != "" {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return in.j.s.sessions.Get(ctx, id)
	}
	if in.j.session == nil {
		return nil, errNoSession
	}
	return in.j.session, nil
}

var errNoSession = fmt.Errorf("build without a session: %w", errdefs.ErrInvalidArgument)

// local is a directory of the client. It implements build.Source.
type local struct {
	in   *inputs
	dir  string
	step string // of the builder, during which it is asked for files
	// ignore is the step that reads the .dockerignore of the directory; "" for the main
	// context, whose patterns come with the Dockerfile.
	ignore string
}

// Files implements build.Source.
func (l *local) Files(ctx context.Context, paths, exclude []string) (files.Tree, error) {
	if paths != nil && len(paths) == 0 {
		return files.Empty(), nil
	}
	s, err := l.in.sessionOf(ctx, l.dir)
	if err != nil {
		return nil, err
	}
	if l.ignore != "" {
		own, err := l.patterns(ctx)
		if err != nil {
			return nil, err
		}
		exclude = slices.Concat(exclude, own)
	}
	key := l.in.r.attrs[prefixSharedKey+l.dir]
	if key == "" {
		key = s.SharedKey
	}
	var tree *synced.Tree
	err = l.in.j.story.within(l.step, func(said progress) error {
		const what = "transferring context:"
		said(what, 0, 0)
		return s.Files(ctx, session.FilesRequest{Dir: l.dir, Follow: paths, Exclude: exclude}, func(ctx context.Context, p session.Packets) (err error) {
			bytes := func(n int64) { said(what, n, 0) }
			if key == "" { // nobody could find it again
				if tree, err = l.in.j.s.contexts.Once(ctx, p, bytes); err == nil {
					l.in.undo.Add(func() { _ = tree.Close() }) // only read
				}
				return err
			}
			var release func()
			k := synced.Key{Name: key + "\x00" + l.dir, Description: "local source for " + l.dir}
			if tree, release, err = l.in.j.s.contexts.Receive(ctx, k, p, bytes); err == nil {
				l.in.undo.Add(release)
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	if missing := tree.Missing(paths); len(missing) > 0 {
		return l.withNeighbours(ctx, tree, missing, exclude), nil
	}
	return tree, nil
}

// patterns reads the .dockerignore of the directory.
func (l *local) patterns(ctx context.Context) (list []string, err error) {
	err = l.in.j.story.step(l.ignore, func(said progress) error {
		tree, err := l.in.few(ctx, l.dir, []string{ignoreSuffix}, "transferring context:", said)
		if err != nil {
			return err
		}
		defer func() { _ = tree.Close() }() // only read
		text, err := files.ReadFile(tree, ignoreSuffix, dockerfile.MaxSize)
		if err = notThere(err); err != nil {
			return err
		}
		list, err = build.IgnorePatterns(text)
		return err
	})
	return list, err
}

// withNeighbours lists what is beside paths that are not there, without its content, so
// that the error can name what may have been meant.
func (l *local) withNeighbours(ctx context.Context, tree *synced.Tree, missing, exclude []string) files.Tree {
	var beside []string
	for _, name := range missing {
		beside = append(beside, path.Join(path.Dir(name), "*"))
	}
	s, err := l.in.sessionOf(ctx, l.dir)
	if err != nil {
		return tree
	}
	err = s.Files(ctx, session.FilesRequest{Dir: l.dir, Follow: beside, Exclude: exclude}, func(ctx context.Context, p session.Packets) (err error) {
		names, err := l.in.j.s.contexts.Names(ctx, p)
		if err == nil {
			tree = tree.With(names)
		}
		return err
	})
	if err != nil {
		ctxlog.From(ctx).Debug("neighbours of a missing file were not listed", ctxlog.Error, err)
	}
	return tree
}

// named sets the further contexts.
func (in *inputs) named(req *build.Request) error {
	for k, v := range in.r.attrs {
		name, ok := strings.CutPrefix(k, prefixContext)
		if !ok {
			continue
		}
		if req.Named == nil {
			req.Named = map[string]build.Named{}
		}
		scheme, rest, ok := strings.Cut(v, ":")
		if scheme == "docker-image" || scheme == "oci-layout" { // with slashes or without
			rest = strings.TrimPrefix(rest, "//")
			v = scheme + "://" + rest
		}
		switch {
		case !ok:
			return fmt.Errorf("invalid context source %s for %s: %w", v, name, errdefs.ErrInvalidArgument)
		case scheme == "local":
			req.Named[name] = build.Named{Source: &local{in: in, dir: rest, step: namedContextName(name), ignore: namedIgnoreName(name)}}
		case scheme == "input":
			input, ok := in.r.inputs[rest]
			switch {
			case !ok:
				return fmt.Errorf("context %s: there is no input %s: %w", name, rest, errdefs.ErrInvalidArgument)
			case input.remote != nil && input.remote.file == "":
				req.Named[name] = build.Named{Ref: input.remote.url}
			case input.remote != nil:
				return unimplemented("context " + name + ": a file by HTTP")
			case input.linked != nil:
				req.Named[name] = build.Named{Linked: input.linked}
			default:
				req.Named[name] = build.Named{Source: &local{in: in, dir: input.dir, step: namedContextName(name)}}
			}
		case scheme == "oci-layout":
			req.Named[name] = build.Named{Ref: v, Blobs: in.j.blobs("oci:" + storeOf(rest))}
		default:
			req.Named[name] = build.Named{Ref: v}
		}
	}
	return nil
}

// storeOf is the store in STORE[:TAG][@DIGEST].
func storeOf(ref string) string {
	store, _, _ := strings.Cut(ref, "@")
	if i := strings.LastIndexByte(store, ':'); i > strings.LastIndexByte(store, '/') {
		store = store[:i]
	}
	return store
}

// isUpload reports whether a context's URL means that the session gives it in one piece.
func isUpload(remote string) bool {
	u, err := url.Parse(remote)
	return err == nil && u.Host == buildkit.UploadHost
}

// uploaded takes a tar with the Dockerfile in it.
func (in *inputs) uploaded(ctx context.Context, remote string, req *build.Request) error {
	u, err := url.Parse(remote)
	if err != nil || in.j.session == nil {
		return errors.Join(err, errNoSession)
	}
	return in.j.story.step(remoteName, func(said progress) error {
		up, err := in.j.session.Upload(ctx, u.Path)
		if err != nil {
			return err
		}
		defer func() { _ = up.Close() }() // all of it has been read
		counted := &counting{Reader: up, said: func(n int64) { said("transferring context:", n, 0) }}
		return in.archive(ctx, counted, req)
	})
}

// parted takes a tree whose Dockerfile is the client's, or of which a directory is the
// context.
func (in *inputs) parted(ctx context.Context, tree files.Tree, req *build.Request) error {
	dir := in.r.attrs[attrSubdir]
	at, n, err := files.Resolve(tree, "/"+dir)
	if err != nil || !n.Mode.IsDir() {
		return fmt.Errorf("build context: it has no directory %q: %w", dir, errdefs.ErrInvalidArgument)
	}
	tree = files.Below(tree, at)
	req.Context = build.FromTree(tree)
	own := in.r.attrs[attrFileName]
	if own == "" {
		req.Dockerfile, err = build.ReadDefinition(tree, in.attr(attrFilename, "Dockerfile"))
		return err
	}
	if err := in.definition(ctx, req, own, ""); err != nil || req.Dockerfile.Ignore != nil {
		return err
	}
	req.Dockerfile.Ignore, err = files.ReadFile(tree, ignoreSuffix, dockerfile.MaxSize)
	return notThere(err)
}

type counting struct {
	io.Reader
	n    int64
	said func(int64)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	c.said(c.n)
	return n, err
}

// maxPadding bounds what may follow a context's archive, in bytes.
const maxPadding = 64 << 20

// archive takes a tar with the Dockerfile in it.
func (in *inputs) archive(ctx context.Context, r io.Reader, req *build.Request) error {
	tree, err := in.j.s.builds.Receive(r)
	if err != nil {
		return err
	}
	in.undo.Add(func() { _ = tree.Close() }) // only read
	// Behind the archive's end may be padding. Only when a request's body has ended does the
	// server notice that a client hangs up.
	if _, err := io.Copy(io.Discard, io.LimitReader(r, maxPadding)); err != nil {
		return fmt.Errorf("read build context: %w", err)
	}
	if in.r.attrs[attrFileName] != "" || in.r.attrs[attrSubdir] != "" {
		return in.parted(ctx, tree, req)
	}
	name := in.attr(attrFilename, "Dockerfile")
	if req.Dockerfile, err = build.ReadDefinition(tree, name); err != nil {
		return err
	}
	if own, err := files.ReadFile(tree, name+ignoreSuffix, dockerfile.MaxSize); err == nil {
		req.Dockerfile.Ignore = own
	}
	req.Dockerfile.Name = path.Base(name)
	req.Context = build.Sent(tree, name)
	return nil
}

// remote is a context that the engine fetches: git, or a tar or Dockerfile by HTTP.
func (in *inputs) remote(ctx context.Context, remote string, req *build.Request) error {
	name := "[internal] load git source " + remote
	if strings.HasPrefix(remote, "http") && !strings.Contains(remote, ".git") {
		name = remoteName
	}
	return in.j.story.step(name, func(progress) error {
		r, err := in.j.s.builds.Remote(ctx, remote, req.Secrets, req.SSH)
		if err != nil {
			return err
		}
		in.undo.Add(func() { _ = r.Close() }) // only files of the build
		req.Context, req.Provenance.Context, req.Provenance.ContextURI = r, &r.Origin, r.URI
		if in.r.attrs[attrFileName] != "" { // the Dockerfile is the client's
			return in.definition(ctx, req, in.r.attrs[attrFileName], "")
		}
		req.Dockerfile, err = r.Definition(in.r.attrs[attrFilename])
		return err
	})
}
