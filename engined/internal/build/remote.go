package build

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/moby/patternmatcher"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/build/files"
	"strata/engined/internal/build/git"
	"strata/pkg/cleanup"
)

// Remote is a context that the engine fetches: a git repository, a tar at a URL, or a
// Dockerfile alone. Close it after the build.
type Remote struct {
	Origin Material // what it was fetched from
	URI    string   // the same with the directory that is the context

	tree  files.Tree
	close func()
}

// IsRemote reports whether a context's name is one for Remote.
func IsRemote(ref string) bool {
	return git.Is(ref) || strings.HasPrefix(ref, "http://") || strings.HasPrefix(ref, "https://")
}

// Remote fetches a context. secrets (GIT_AUTH_TOKEN, GIT_AUTH_HEADER, each perhaps with
// .HOST) and agents, either may be nil, are for repositories that ask for them.
func (s *Service) Remote(ctx context.Context, ref string, secrets Secrets, agents Agents) (*Remote, error) {
	if git.Is(ref) {
		repo, err := git.Parse(ref)
		if err != nil {
			return nil, err
		}
		access, done, err := s.gitAccess(ctx, repo, secrets, agents)
		if err != nil {
			return nil, err
		}
		defer done()
		sum, err := repo.Resolve(ctx, access)
		if err != nil {
			return nil, err
		}
		tree, remove, err := s.checkout(ctx, repo, access, sum)
		if err != nil {
			return nil, err
		}
		return &Remote{Origin: gitMaterial(repo, sum), URI: redacted(repo.String()), tree: tree, close: remove}, nil
	}
	if !IsRemote(ref) {
		return nil, fmt.Errorf("context %q is no URL and no git repository: %w", ref, errdefs.ErrInvalidArgument)
	}
	return s.remoteTar(ctx, ref)
}

// Definition reads the Dockerfile called name ("" for the default).
func (r *Remote) Definition(name string) (Definition, error) {
	if _, alone := r.tree.(inlineTree); alone {
		name = ""
	}
	return ReadDefinition(r.tree, name)
}

// Files implements Source.
func (r *Remote) Files(_ context.Context, _, exclude []string) (files.Tree, error) {
	return excluding(r.tree, exclude)
}

// Close removes what was fetched.
func (r *Remote) Close() error { r.close(); return nil }

// FromTree is the source whose files are those of t.
func FromTree(t files.Tree) Source { return &Remote{tree: t, close: func() {}} }

// excluding is t without what patterns of .dockerignore match.
func excluding(t files.Tree, exclude []string) (files.Tree, error) {
	if len(exclude) == 0 {
		return t, nil
	}
	m, err := patternmatcher.New(exclude)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ignoreFile, err, errdefs.ErrInvalidArgument)
	}
	return files.Without(t, m), nil
}

// remoteTar downloads a context. A text is the Dockerfile itself, as dockerd has it.
func (s *Service) remoteTar(ctx context.Context, ref string) (*Remote, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ref, nil)
	if err != nil {
		return nil, fmt.Errorf("remote context: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	req.Header.Set("User-Agent", userAgent())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("remote context: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, fmt.Errorf("remote context %s: %s: %w", ref, resp.Status, errdefs.ErrNotFound)
	}
	body := bufio.NewReaderSize(resp.Body, 64<<10)
	head, err := body.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("remote context %s: %w: %w", ref, err, errdefs.ErrUnavailable)
	}
	if isText(head) {
		text, err := io.ReadAll(io.LimitReader(body, dockerfile.MaxSize+1))
		if err != nil {
			return nil, fmt.Errorf("remote context %s: %w: %w", ref, err, errdefs.ErrUnavailable)
		}
		return &Remote{Origin: Material{URI: redacted(ref)}, URI: redacted(ref), tree: inlineTree{"/" + defaultDockerfile: string(text)}, close: func() {}}, nil
	}
	c, err := s.Receive(body)
	if err != nil {
		return nil, fmt.Errorf("remote context %s: %w", ref, err)
	}
	return &Remote{Origin: Material{URI: redacted(ref)}, URI: redacted(ref), tree: c, close: func() { _ = c.Close() }}, nil // only a descriptor
}

// isText reports whether a file that begins with head is a text: no tar is, as its header
// has zero bytes, and no compressed file.
func isText(head []byte) bool {
	if len(head) > 500 {
		head = head[:500]
		for !utf8.Valid(head) && len(head) > 496 {
			head = head[:len(head)-1] // a character was cut
		}
	}
	return len(head) > 0 && utf8.Valid(head) && bytes.IndexByte(head, 0) < 0
}

// gitAccess collects what a repository may ask the client for. Call done when git is.
func (s *Service) gitAccess(ctx context.Context, r git.Repo, secrets Secrets, agents Agents) (a git.Access, done func(), err error) {
	if secrets != nil {
		for _, wish := range []struct {
			name string
			to   *string
		}{{"GIT_AUTH_TOKEN", &a.Token}, {"GIT_AUTH_HEADER", &a.Header}} {
			for _, id := range []string{wish.name + "." + repoHost(r.URL), wish.name} {
				v, err := secrets.Secret(ctx, id)
				if err == nil {
					*wish.to = strings.TrimSpace(string(v))
					break
				}
				if !errdefs.IsNotFound(err) {
					return a, nil, fmt.Errorf("secret %s: %w", id, err)
				}
			}
		}
	}
	if agents == nil || strings.Contains(r.URL, "://") && !strings.HasPrefix(r.URL, "ssh://") {
		return a, func() {}, nil
	}
	dir, err := os.MkdirTemp(s.runDir(), "ssh")
	if err != nil {
		return a, nil, err
	}
	a.SSHSocket = filepath.Join(dir, "agent")
	stop, err := forwardAgent(ctx, a.SSHSocket, "default", agents)
	if err != nil {
		return a, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return a, func() { stop(); _ = os.RemoveAll(dir) }, nil // the next start removes it, too
}

func repoHost(u string) string {
	_, rest, ok := strings.Cut(u, "://")
	if !ok {
		rest = u
	}
	if _, host, ok := strings.Cut(rest, "@"); ok {
		rest = host
	}
	return strings.FieldsFunc(rest+"/", func(r rune) bool { return r == '/' || r == ':' })[0]
}

// checkout puts a commit into a directory that lives until remove is called.
func (s *Service) checkout(ctx context.Context, r git.Repo, a git.Access, sum string) (_ files.Tree, remove func(), err error) {
	dir, err := os.MkdirTemp(s.tmpDir(), "git-")
	if err != nil {
		return nil, nil, err
	}
	var undo cleanup.Stack
	defer undo.Clean()
	undo.Add(func() { _ = os.RemoveAll(dir) }) // the next start removes it, too
	at, err := r.Checkout(ctx, a, sum, dir)
	if err != nil {
		return nil, nil, err
	}
	root, err := files.OpenRoot(at)
	if err != nil {
		return nil, nil, err
	}
	undo.Release()
	return files.OwnedByRoot(root), func() { _, _ = root.Close(), os.RemoveAll(dir) }, nil // the next start removes it, too
}

// repos are the repositories that one build has asked for.
type repos struct {
	mu      sync.Mutex
	commits map[string]string     // by URL and reference
	trees   map[string]files.Tree // by URL, commit, directory
}

// commit resolves a repository once for the whole build.
func (b *builder) commit(ctx context.Context, repo git.Repo) (string, error) {
	b.repos.mu.Lock()
	defer b.repos.mu.Unlock()
	k := repo.URL + "#" + repo.Ref + "@" + repo.Commit
	if sum, ok := b.repos.commits[k]; ok {
		return sum, nil
	}
	a, done, err := b.s.gitAccess(ctx, repo, b.r.Secrets, b.r.SSH)
	if err != nil {
		return "", err
	}
	defer done()
	sum, err := repo.Resolve(ctx, a)
	if err != nil {
		return "", err
	}
	if b.repos.commits == nil {
		b.repos.commits = map[string]string{}
	}
	b.repos.commits[k] = sum
	b.fetchedFrom(gitMaterial(repo, sum))
	return sum, nil
}

// repoTree checks a repository out once for the whole build.
func (b *builder) repoTree(ctx context.Context, repo git.Repo) (files.Tree, error) {
	sum, err := b.commit(ctx, repo)
	if err != nil {
		return nil, err
	}
	b.repos.mu.Lock()
	defer b.repos.mu.Unlock()
	k := fmt.Sprint(repo.URL, "#", sum, ":", repo.Subdir, repo.KeepDir, repo.NoSubmodules)
	if t, ok := b.repos.trees[k]; ok {
		return t, nil
	}
	a, done, err := b.s.gitAccess(ctx, repo, b.r.Secrets, b.r.SSH)
	if err != nil {
		return nil, err
	}
	defer done()
	t, remove, err := b.s.checkout(ctx, repo, a, sum)
	if err != nil {
		return nil, err
	}
	b.later(remove)
	if b.repos.trees == nil {
		b.repos.trees = map[string]files.Tree{}
	}
	b.repos.trees[k] = t
	return t, nil
}

// gitMaterial is a commit of a repository, whatever directory of it is wanted.
func gitMaterial(r git.Repo, sum string) Material {
	algorithm := "sha1"
	if len(sum) == sha256.Size*2 {
		algorithm = "sha256"
	}
	r.Subdir = ""
	return Material{redacted(r.String()), map[string]string{algorithm: sum}}
}

// fetchedFrom notes a source for the provenance.
func (b *builder) fetchedFrom(m Material) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fetched = append(b.fetched, m)
}

// maxFile bounds a file that is fetched to be looked into, in bytes.
const maxFile = 8 << 20

// File fetches one file by HTTP: it is alone in the root of its tree, as name. Close it.
func (s *Service) File(ctx context.Context, source, name string) (*Remote, error) {
	f, err := os.CreateTemp(s.tmpDir(), "url-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nobody needs it any more
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	it, err := fetch(ctx, source, f)
	if err != nil {
		return nil, err
	}
	if it.Size > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", source, maxFile, errdefs.ErrResourceExhausted)
	}
	data := make([]byte, it.Size)
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return &Remote{Origin: Material{URI: redacted(source)}, URI: redacted(source), tree: inlineTree{"/" + name: string(data)}, close: func() {}}, nil
}
