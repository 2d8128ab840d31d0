package git

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Repo is a place in a repository: what BuildKit writes as URL#REF:DIRECTORY.
type Repo struct {
	URL    string
	Ref    string // branch, tag, commit; "" for the default branch
	Subdir string // clean and relative; "" for all
	Commit string // what Ref must be at, or how that begins; "" for any

	KeepDir       bool // .git belongs to the files
	NoSubmodules  bool
	fetchByCommit bool // Commit is taken for what Ref is at
}

// Access is what a repository may ask for.
type Access struct {
	Token     string // of an https server; "" for none
	Header    string // Authorization header instead of Token
	SSHSocket string // of an agent; "" for none
}

// scp matches user@host:path.
var scp = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^:]`)

// Is reports whether s names a repository rather than a file or another URL.
func Is(s string) bool {
	base, _, _ := strings.Cut(s, "#")
	base, _, _ = strings.Cut(base, "?")
	switch scheme, _, _ := strings.Cut(base, "://"); scheme {
	case "git", "ssh":
		return true
	case "http", "https":
		return strings.HasSuffix(base, ".git") || strings.HasSuffix(base, ".git/")
	}
	return scp.MatchString(base) || strings.HasPrefix(base, "github.com/")
}

// Parse reads URL#REF:DIRECTORY, or a query: ref, branch or tag, subdir, commit (checksum),
// keep-git-dir, submodules, fetch-by-commit. Errors are of class ErrInvalidArgument, or
// ErrNotImplemented.
//
// Source: docs.docker.com/build/concepts/context/#url-queries.
func Parse(s string) (Repo, error) {
	base, fragment, _ := strings.Cut(s, "#")
	if strings.HasPrefix(base, "github.com/") {
		base = "https://" + base
	}
	ref, subdir, _ := strings.Cut(fragment, ":")
	r := Repo{URL: base, Ref: ref}
	if !scp.MatchString(base) {
		u, err := url.Parse(base)
		if err != nil {
			return r, fmt.Errorf("git repository %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
		}
		for k, v := range u.Query() {
			if len(v) != 1 {
				return r, fmt.Errorf("git repository %q: query %q has several values: %w", s, k, errdefs.ErrInvalidArgument)
			}
			if err := r.query(k, v[0], &subdir); err != nil {
				return r, fmt.Errorf("git repository %q: %w", s, err)
			}
		}
		u.RawQuery = ""
		r.URL = u.String()
	}
	r.Subdir = strings.TrimPrefix(path.Clean("/"+subdir), "/")
	if strings.HasPrefix(r.URL, "-") || strings.HasPrefix(r.Ref, "-") || strings.ContainsAny(r.Ref, " \t\n:^~?*[\\") {
		return r, fmt.Errorf("git repository %q: no such reference can be: %w", s, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

// query takes one parameter of a URL.
func (r *Repo) query(k, v string, subdir *string) error {
	flags := map[string]func(bool){
		"keep-git-dir":    func(on bool) { r.KeepDir = on },
		"submodules":      func(on bool) { r.NoSubmodules = !on },
		"fetch-by-commit": func(on bool) { r.fetchByCommit = on },
	}
	if set, ok := flags[k]; ok {
		on, err := strconv.ParseBool(v)
		if v != "" && err != nil {
			return fmt.Errorf("invalid %s value: %q: %w", k, v, errdefs.ErrInvalidArgument)
		}
		set(on || v == "")
		return nil
	}
	if v == "" {
		return fmt.Errorf("query %q has no value: %w", k, errdefs.ErrInvalidArgument)
	}
	one := func(what string, to *string, v string) error {
		if *to != "" && *to != v {
			return fmt.Errorf("%s conflicts: %q vs %q: %w", what, *to, v, errdefs.ErrInvalidArgument)
		}
		*to = v
		return nil
	}
	switch k {
	case "ref":
		return one("ref", &r.Ref, v)
	case "branch":
		return one("ref", &r.Ref, branches+strings.TrimPrefix(v, branches))
	case "tag":
		return one("ref", &r.Ref, tags+strings.TrimPrefix(v, tags))
	case "subdir":
		return one("subdir", subdir, v)
	case "commit", "checksum":
		return one(k, &r.Commit, v)
	case "mtime":
		if v == "commit" {
			return fmt.Errorf("mtime=commit: %w", errdefs.ErrNotImplemented)
		}
		return nil
	}
	return fmt.Errorf("unexpected query %q: %w", k, errdefs.ErrInvalidArgument)
}

// Where a repository has its branches and tags.
const branches, tags = "refs/heads/", "refs/tags/"

// String is what Parse reads, without a password.
func (r Repo) String() string {
	out := r.URL
	if u, err := url.Parse(r.URL); err == nil && u.User != nil {
		out = u.Redacted()
	}
	if r.Ref+r.Subdir == "" {
		return out
	}
	out += "#" + r.Ref
	if r.Subdir != "" {
		out += ":" + r.Subdir
	}
	return out
}

// commit matches a full commit.
var commit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// Resolve returns the commit that the reference means now. ErrNotFound if there is none,
// ErrInvalidArgument if it is not the wanted one, ErrNotImplemented without a git program.
func (r Repo) Resolve(ctx context.Context, a Access) (string, error) {
	if r.fetchByCommit && commit.MatchString(r.Commit) {
		return r.Commit, nil
	}
	sum, err := r.resolve(ctx, a)
	if err == nil && !strings.HasPrefix(sum, r.Commit) {
		err = fmt.Errorf("git repository %s: expected checksum to match %s, got %s: %w", r, r.Commit, sum, errdefs.ErrInvalidArgument)
	}
	return sum, err
}

func (r Repo) resolve(ctx context.Context, a Access) (string, error) {
	if commit.MatchString(r.Ref) {
		return r.Ref, nil
	}
	want := r.Ref
	if want == "" {
		want = "HEAD"
	}
	out, err := a.git(ctx, r, "", "ls-remote", "--", r.URL, want, want+"^{}")
	if err != nil {
		return "", fmt.Errorf("git repository %s: %w", r, err)
	}
	found := map[string]string{}
	for line := range strings.SplitSeq(out, "\n") {
		if sum, name, ok := strings.Cut(line, "\t"); ok && commit.MatchString(sum) {
			found[name] = sum
		}
	}
	for _, name := range []string{want + "^{}", want, "refs/" + want, tags + want + "^{}", tags + want, branches + want} { // as gitrevisions(7) has it
		if sum, ok := found[name]; ok {
			return sum, nil
		}
	}
	return "", fmt.Errorf("git repository %s: repository does not contain ref %s: %w", r, want, errdefs.ErrNotFound)
}

// Checkout puts the files of a commit, and of its submodules, into dir, which must be
// empty. Without KeepDir there is no .git. It returns the directory that Subdir means, which
// no symlink leads to.
func (r Repo) Checkout(ctx context.Context, a Access, sum, dir string) (string, error) {
	setUp := [][]string{{"init", "-q", "--template=", "."}, {"remote", "add", "origin", r.URL}}
	if len(sum) == sha256.Size*2 {
		setUp[0] = append(setUp[0], "--object-format=sha256")
	}
	for _, step := range setUp {
		if _, err := a.git(ctx, r, dir, step...); err != nil {
			return "", fmt.Errorf("git repository %s: %w", r, err)
		}
	}
	if err := r.fetch(ctx, a, sum, dir); err != nil {
		return "", fmt.Errorf("git repository %s: %w", r, err)
	}
	if _, err := a.git(ctx, r, dir, "checkout", "-q", "--detach", sum); err != nil {
		return "", fmt.Errorf("git repository %s: commit %s: %w", r, sum, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".gitmodules")); err == nil && !r.NoSubmodules {
		update := []string{"submodule", "update", "-q", "--init", "--recursive"}
		_, err := a.git(ctx, r, dir, append(update, "--depth=1")...)
		if err != nil && ctx.Err() == nil { // a server of plain files gives no single commits
			_, err = a.git(ctx, r, dir, update...)
		}
		if err != nil {
			return "", fmt.Errorf("git repository %s: submodules: %w", r, err)
		}
	}
	if !r.KeepDir {
		if err := os.RemoveAll(filepath.Join(dir, ".git")); err != nil {
			return "", err
		}
	}
	at := dir
	for part := range strings.SplitSeq(r.Subdir, "/") {
		at = filepath.Join(at, part)
		if fi, err := os.Lstat(at); err != nil || !fi.IsDir() {
			return "", fmt.Errorf("git repository %s: it has no directory %q: %w", r, r.Subdir, errdefs.ErrNotFound)
		}
	}
	return at, nil
}

// fetch gets one commit: alone if the server gives single commits, or with the branches
// and tags.
func (r Repo) fetch(ctx context.Context, a Access, sum, dir string) error {
	_, err := a.git(ctx, r, dir, "fetch", "-q", "--depth=1", "--no-tags", "origin", sum)
	if err == nil || ctx.Err() != nil {
		return err
	}
	_, err = a.git(ctx, r, dir, "fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
	return err
}

// maxOutput bounds what git says, in bytes.
const maxOutput = 4 << 20

// git runs the program and returns its output.
func (a Access) git(ctx context.Context, r Repo, dir string, args ...string) (string, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return "", fmt.Errorf("git sources need the git program, which this host does not have: %w", errdefs.ErrNotImplemented)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, a.environment(r)
	if dir == "" {
		cmd.Dir = "/"
	}
	// A group of its own: its transports end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", classify(args[0], strings.TrimSpace(stderr.String()), err)
	}
	return stdout.String(), nil
}

// classify makes an error of what git said.
func classify(verb, said string, err error) error {
	var class error = errdefs.ErrUnavailable
	low := strings.ToLower(said)
	switch {
	case strings.Contains(low, "not found"), strings.Contains(low, "does not exist"), strings.Contains(low, "not our ref"):
		class = errdefs.ErrNotFound
	case strings.Contains(low, "authentication"), strings.Contains(low, "could not read username"), strings.Contains(low, "permission denied"):
		class = errdefs.ErrPermissionDenied
	case strings.Contains(low, "not allowed"):
		class = errdefs.ErrInvalidArgument
	}
	if said == "" {
		said = err.Error()
	}
	return fmt.Errorf("git %s: %s: %w", verb, said, class)
}

// environment is all that git gets to know.
func (a Access) environment(r Repo) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=/bin/false", "SSH_ASKPASS=/bin/false",
		"GIT_ALLOW_PROTOCOL=http:https:git:ssh", "GIT_LFS_SKIP_SMUDGE=1",
		"GIT_SSH_COMMAND=ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
	}
	for _, k := range []string{"http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	if a.SSHSocket != "" {
		env = append(env, "SSH_AUTH_SOCK="+a.SSHSocket)
	}
	config := [][2]string{
		{"core.hooksPath", "/dev/null"},
		{"core.fsmonitor", "false"},
		{"credential.helper", ""},
		{"advice.detachedHead", "false"},
		{"gc.auto", "0"},
		{"protocol.file.allow", "never"},
		{"safe.directory", "*"},
	}
	header := a.Header
	if header == "" && a.Token != "" {
		header = "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+a.Token))
	}
	if u, err := url.Parse(r.URL); err == nil && header != "" && u.Scheme == "https" {
		config = append(config, [2]string{"http." + u.Scheme + "://" + u.Host + "/.extraheader", "Authorization: " + header})
	}
	// By the environment: arguments can be seen by every process.
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)))
	for i, kv := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return env
}

// bounded is a buffer with an end; what is beyond it is dropped.
type bounded struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room < len(p) {
		_, _ = b.Buffer.Write(p[:max(room, 0)]) // never fails
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
