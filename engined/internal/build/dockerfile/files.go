package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
)

// proxies are the variables that every Dockerfile may be given without declaring them.
var proxies = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"}

func (c *compiler) run(ctx context.Context, st *state, cmd *instructions.RunCommand) error {
	r := &Run{Platform: st.platform, User: st.config.User, Dir: st.config.WorkingDir, Network: instructions.GetNetwork(cmd), Insecure: instructions.GetSecurity(cmd) == instructions.SecurityInsecure}
	if list := instructions.GetDevices(cmd); len(list) > 0 {
		return fmt.Errorf("RUN --device=%s: devices of commands: %w", list[0].Name, errdefs.ErrNotImplemented)
	}
	r.Args = cmd.CmdLine
	if len(cmd.Files) > 0 {
		if len(r.Args) != 1 || !cmd.PrependShell {
			return errors.New("a here-document needs the shell form of RUN")
		}
		r.heredoc(cmd.Files)
	}
	r.Shell = st.shell()
	if cmd.PrependShell && len(r.Files) == 0 {
		r.Args = st.withShell(r.Args)
	}
	if len(r.Args) == 0 {
		return errors.New("RUN needs a command")
	}
	// Arguments come before ENV, which wins.
	r.Env = slices.Clone(st.args.list)
	for _, kv := range st.config.Env {
		k, v, _ := strings.Cut(kv, "=")
		r.Env = setEnv(r.Env, k, v)
	}
	env := &environment{r.Env}
	for _, p := range proxies {
		if v, ok := c.proxy(p); ok {
			if _, declared := env.Get(p); !declared {
				r.Env = append(r.Env, p+"="+v)
				r.Hides = append(r.Hides, p)
			}
		}
	}
	for _, m := range instructions.GetMounts(cmd) {
		mount, err := c.mount(ctx, st, m)
		if err != nil {
			return err
		}
		r.Mounts = append(r.Mounts, mount)
	}
	v := c.step(st, cmd, &Vertex{Run: r})
	st.note("RUN "+strings.Join(append(st.arguments(), r.Args...), " "), v)
	return nil
}

// proxy returns the build argument of a proxy; what is said in one case counts for the
// other, too.
func (c *compiler) proxy(name string) (string, bool) {
	for _, n := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
		if v, ok := c.opts.Args[n]; ok {
			return v, true
		}
	}
	return "", false
}

// arguments says the declared arguments of a RUN in the history: "|1 KEY=value". An ENV of
// the same name has the last word.
func (st *state) arguments() []string {
	if len(st.declared) == 0 {
		return nil
	}
	out := []string{"|" + strconv.Itoa(len(st.declared))}
	for _, name := range st.declared {
		v, _ := st.env.Get(name) // empty if nothing gives it a value
		out = append(out, name+"="+v)
	}
	return out
}

// heredoc puts here-documents where the command finds them: one alone is the script, any
// other is for the shell.
func (r *Run) heredoc(files []instructions.ShellInlineFile) {
	if parser.MustParseHeredoc(r.Args[0]) == nil {
		parts := []string{r.Args[0]}
		for _, f := range files {
			parts = append(parts, f.Data+f.Name)
		}
		r.Args = []string{strings.Join(parts, "\n")}
		return
	}
	data := files[0].Data
	if files[0].Chomp {
		data = parser.ChompHeredocContent(data)
	}
	if strings.HasPrefix(data, "#!") {
		r.Files = []File{{Name: files[0].Name, Data: data}}
		r.Args = []string{path.Join(ScriptDir, files[0].Name)}
		return
	}
	r.Args = []string{data}
}

func (c *compiler) mount(ctx context.Context, st *state, m *instructions.Mount) (Mount, error) {
	out := Mount{
		Type: MountType(m.Type), Source: path.Clean("/" + m.Source), ReadOnly: m.ReadOnly, ID: m.CacheID, Sharing: string(m.CacheSharing),
		Size: m.SizeLimit, Required: m.Required, Mode: m.Mode, UID: m.UID, GID: m.GID,
	}
	if m.From != "" && m.From != "scratch" {
		from, name, err := c.source(ctx, st, "mount", m.From)
		if err != nil {
			return out, err
		}
		out.From, out.FromContext, out.Context = from, from == nil, name
	} else if out.Type == MountBind && m.From == "" {
		out.FromContext = true
	}
	target := m.Target
	switch out.Type {
	case MountSecret:
		if out.ID == "" {
			out.ID = m.Source
		}
		if out.ID == "" {
			out.ID = path.Base(target)
		}
		if m.Env != nil {
			if out.Env = *m.Env; out.Env == "" {
				out.Env = out.ID
			}
		}
		if target == "" && m.Env == nil {
			target = "/run/secrets/" + path.Base(out.ID)
		}
		out.Source = ""
	case MountSSH:
		if out.ID == "" {
			out.ID = "default"
		}
		if target == "" {
			target = "/run/buildkit/ssh_agent.0"
		}
	case MountCache:
		if target == "" {
			return out, errors.New("cache mount needs a target")
		}
		if out.ID == "" {
			out.ID = absolute(st.config.WorkingDir, target)
		}
		if out.Sharing == "" {
			out.Sharing = "shared"
		}
	default:
		if target == "" {
			return out, fmt.Errorf("%s mount needs a target", m.Type)
		}
	}
	if target != "" {
		out.Target = absolute(st.config.WorkingDir, target)
		if out.Target == "/" {
			return out, fmt.Errorf("invalid mount target %q", m.Target)
		}
	}
	return out, nil
}

func (c *compiler) copy(ctx context.Context, st *state, cmd *instructions.CopyCommand) error {
	cp := &Copy{
		Dest: destination(st.config.WorkingDir, cmd.DestPath), Chown: cmd.Chown, Chmod: cmd.Chmod,
		Exclude: cmd.ExcludePatterns, Parents: cmd.Parents, Link: cmd.Link && independent(cmd.Chown, cmd.Chmod),
	}
	for _, s := range cmd.SourcePaths {
		if isURL(s) || isGit(s) {
			return errors.New("source can't be a URL for COPY")
		}
	}
	cp.Sources = cmd.SourcePaths
	if cmd.From == "" {
		c.checkIgnored(cmd, cp.Sources)
	}
	if cmd.From != "" {
		if word, _, err := c.lex().ProcessWord(cmd.From, &environment{}); err != nil || word != cmd.From {
			return errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
		}
		from, name, err := c.source(ctx, st, "copy", cmd.From)
		if err != nil {
			return err
		}
		cp.From, cp.Context = from, name
	}
	return c.transfer(st, cmd, cp, cmd.SourcesAndDest)
}

func (c *compiler) addition(st *state, cmd *instructions.AddCommand) error {
	cp := &Copy{
		Dest: destination(st.config.WorkingDir, cmd.DestPath), Chown: cmd.Chown, Chmod: cmd.Chmod,
		Exclude: cmd.ExcludePatterns, Link: cmd.Link && independent(cmd.Chown, cmd.Chmod), Unpack: cmd.Unpack == nil || *cmd.Unpack, Fetched: cmd.Unpack != nil && *cmd.Unpack,
	}
	for _, s := range cmd.SourcePaths {
		switch {
		case isGit(s):
			cp.Repos = append(cp.Repos, s)
		case isURL(s):
			cp.URLs = append(cp.URLs, s)
		default:
			cp.Sources = append(cp.Sources, s)
		}
	}
	c.checkIgnored(cmd, cp.Sources)
	cp.KeepGit = cmd.KeepGitDir != nil && *cmd.KeepGitDir
	if cmd.Checksum != "" {
		if err := cp.check(cmd.Checksum); err != nil {
			return err
		}
	}
	return c.transfer(st, cmd, cp, cmd.SourcesAndDest)
}

// check takes --checksum: the digest of one URL, or the commit of one repository.
func (cp *Copy) check(sum string) error {
	if len(cp.Repos) == 1 && len(cp.Sources)+len(cp.URLs) == 0 {
		if !isCommit(sum) {
			return fmt.Errorf("invalid checksum %q: expected hex commit hash", sum)
		}
		cp.Commit = sum
		return nil
	}
	if len(cp.URLs) != 1 || len(cp.Sources)+len(cp.Repos) > 0 {
		return errors.New("checksum requires one HTTP(S) or git source")
	}
	d, err := digest.Parse(sum)
	if err != nil {
		return fmt.Errorf("invalid checksum %q: %w", sum, err)
	}
	cp.Checksum = d
	return nil
}

// isCommit reports whether s is, or begins, the name of a commit.
func isCommit(s string) bool {
	return len(s) >= 7 && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// independent reports whether a --link is followed: names of owners are those of the files
// below, and with --chmod BuildKit copies as without --link, which images rely on that have
// a symlink in the destination. Where BuildKit's store cannot merge, it copies so, too; where
// it can, it refuses names.
//
// Source: moby/buildkit v0.32.2 frontend/dockerfile/dockerfile2llb/convert_copy.go
// "dispatchCopy"; v0.34.2 "chownByName".
func independent(chown, chmod string) bool {
	for name := range strings.SplitSeq(chown, ":") {
		if _, err := strconv.ParseUint(name, 10, 32); err != nil && name != "" && name != "root" {
			return false
		}
	}
	return chmod == ""
}

// transfer makes the vertex of a COPY or an ADD.
func (c *compiler) transfer(st *state, cmd instructions.Command, cp *Copy, sd instructions.SourcesAndDest) error {
	if _, err := ParseMode(cp.Chmod); err != nil {
		return err
	}
	for _, f := range sd.SourceContents {
		cp.Files = append(cp.Files, File{Name: f.Path, Data: f.Data})
	}
	if n := len(cp.Sources) + len(cp.URLs) + len(cp.Repos) + len(cp.Files); n > 1 && !strings.HasSuffix(cp.Dest, "/") {
		return fmt.Errorf("when using %s with more than one source file, the destination must be a directory and end with a /", strings.ToUpper(cmd.Name()))
	}
	line := []string{strings.ToUpper(cmd.Name())}
	if cp.Parents {
		line = append(line, "--parents")
	}
	if cp.Chown != "" {
		line = append(line, "--chown="+cp.Chown)
	}
	if cp.Chmod != "" {
		line = append(line, "--chmod="+cp.Chmod)
	}
	line = append(line, sd.SourcePaths...)
	for _, f := range sd.SourceContents {
		line = append(line, "<<"+f.Path)
	}
	v := c.step(st, cmd, &Vertex{Copy: cp})
	st.note(strings.Join(append(line, sd.DestPath), " "), v)
	return nil
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// IsGit reports whether a source is a git repository.
func IsGit(s string) bool { return isGit(s) }

func isGit(s string) bool {
	if strings.HasPrefix(s, "git@") || strings.HasPrefix(s, "git://") || strings.HasPrefix(s, "ssh://") {
		return true
	}
	base, _, _ := strings.Cut(s, "#")
	base, _, _ = strings.Cut(base, "?")
	return isURL(s) && strings.HasSuffix(base, ".git")
}
