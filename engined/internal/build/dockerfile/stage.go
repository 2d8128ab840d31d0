package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	v1 "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// comment is what BuildKit writes into the history; tools look for it.
const comment = "buildkit.dockerfile.v0"

// state is a stage as far as it has been compiled.
type state struct {
	index    int
	stage    *instructions.Stage
	vertex   *Vertex
	platform ocispec.Platform
	config   v1.DockerOCIImageConfig
	history  []Entry
	parent   digest.Digest
	env      *environment // ENV and ARG, for expansion
	args     *environment // declared ARGs with a value
	declared []string     // all ARGs, each once
	author   string
	workdir  bool // WORKDIR was set in this Dockerfile
	done     bool
}

// stage compiles stage i, and those it needs.
func (c *compiler) stage(ctx context.Context, i int) (*state, error) {
	if st, ok := c.states[i]; ok {
		if !st.done {
			return nil, mistake(c.stages[i].Location, fmt.Errorf("circular dependency detected on stage: %s", c.stageName(i)))
		}
		return st, nil
	}
	st := &state{index: i, stage: &c.stages[i]}
	c.states[i] = st
	if err := c.begin(ctx, st); err != nil {
		return nil, err
	}
	triggers, err := c.triggers(st)
	if err != nil {
		return nil, err
	}
	c.checkRepeats(st)
	for _, cmd := range slices.Concat(triggers, st.stage.Commands) {
		before := st.vertex
		if err := c.instruction(ctx, st, cmd); err != nil {
			return nil, mistake(cmd.Location(), err)
		}
		step := Step{Text: text(cmd), Stage: c.stageName(i)}
		if st.vertex != before {
			step.Vertex = st.vertex
		}
		c.steps[i] = append(c.steps[i], step)
	}
	st.done = true
	return st, nil
}

func (c *compiler) stageName(i int) string {
	if n := c.stages[i].Name; n != "" {
		return n
	}
	return fmt.Sprintf("stage-%d", i)
}

// text is an instruction as the Dockerfile says it.
func text(cmd instructions.Command) string {
	if s, ok := cmd.(fmt.Stringer); ok {
		return s.String()
	}
	return strings.ToUpper(cmd.Name())
}

// begin sets what FROM says.
func (c *compiler) begin(ctx context.Context, st *state) error {
	j, ref, platform, err := c.base(st.index)
	if err != nil {
		return err
	}
	step := Step{Text: st.stage.SourceCode, Stage: c.stageName(st.index)}
	st.platform = platform
	var inherited *state
	switch {
	case j >= 0:
		base, err := c.stage(ctx, j)
		if err != nil {
			return err
		}
		st.vertex, st.platform, st.parent, st.author = base.vertex, base.platform, base.parent, base.author
		st.config, st.history = clone(base.config), slices.Clone(base.history)
		inherited = base
	case ref == "scratch":
		st.vertex = c.add(&Vertex{Name: st.stage.SourceCode, Stage: c.stageName(st.index), Lines: lines(st.stage.Location)})
		st.config.Env, st.config.WorkingDir = setEnv(nil, "PATH", defaultPath), "/"
		step.Vertex = st.vertex
	case strings.HasPrefix(ref, contextPrefix):
		bottom := c.add(&Vertex{Name: st.stage.SourceCode, Stage: c.stageName(st.index), Lines: lines(st.stage.Location)})
		st.vertex = c.add(&Vertex{
			Parent: bottom, Name: st.stage.SourceCode, Stage: c.stageName(st.index), Lines: lines(st.stage.Location),
			Copy: &Copy{Context: strings.TrimPrefix(ref, contextPrefix), Sources: []string{"/"}, Dest: "/"},
		})
		st.config.Env, st.config.WorkingDir = setEnv(nil, "PATH", defaultPath), "/"
		st.note(st.stage.SourceCode, st.vertex)
		step.Vertex = st.vertex
	default:
		b, err := c.image(ctx, ref, platform)
		if err != nil {
			return mistake(st.stage.Location, err)
		}
		c.checkBase(st.stage, ref, platform, b.Platform)
		st.vertex = c.add(&Vertex{Image: b, Name: st.stage.SourceCode, Stage: c.stageName(st.index), Lines: lines(st.stage.Location)})
		st.platform, st.parent, st.config, st.author = b.Platform, b.ID, clone(b.Config), b.Author
		for _, h := range b.History {
			st.history = append(st.history, Entry{History: h})
		}
		step.Vertex = st.vertex
	}
	c.steps[st.index] = append(c.steps[st.index], step)
	st.env, st.args = &environment{slices.Clone(st.config.Env)}, &environment{}
	if inherited != nil { // with the ARGs that it has declared
		st.env, st.args, st.declared, st.workdir = inherited.env.clone(), inherited.args.clone(), slices.Clone(inherited.declared), inherited.workdir
	}
	return nil
}

// defaultPath is PATH of an image from scratch.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// clone copies what instructions change in place.
func clone(cfg v1.DockerOCIImageConfig) v1.DockerOCIImageConfig {
	cfg.Env, cfg.OnBuild = slices.Clone(cfg.Env), slices.Clone(cfg.OnBuild)
	cfg.Labels, cfg.ExposedPorts, cfg.Volumes = maps.Clone(cfg.Labels), maps.Clone(cfg.ExposedPorts), maps.Clone(cfg.Volumes)
	return cfg
}

// triggers returns the ONBUILD instructions of the base, which take effect once.
func (c *compiler) triggers(st *state) ([]instructions.Command, error) {
	var out []instructions.Command
	for _, t := range st.config.OnBuild {
		ast, err := parser.Parse(strings.NewReader(t))
		if err != nil {
			return nil, mistake(st.stage.Location, fmt.Errorf("trigger %q of the base image: %w", t, err))
		}
		if len(ast.AST.Children) != 1 {
			return nil, mistake(st.stage.Location, fmt.Errorf("trigger %q of the base image is not one instruction", t))
		}
		node := ast.AST.Children[0]
		if at := lines(st.stage.Location); at[0] > 0 {
			node.StartLine, node.EndLine = at[0], at[1]
		}
		cmd, err := instructions.ParseCommand(node)
		if err != nil {
			return nil, mistake(st.stage.Location, fmt.Errorf("trigger %q of the base image: %w", t, err))
		}
		out = append(out, cmd)
	}
	st.config.OnBuild = nil
	return out, nil
}

// expander expands variables in one word of cmd.
func (c *compiler) expander(st *state, cmd instructions.Command) instructions.SingleWordExpander {
	return func(word string) (string, error) {
		out, unset, err := c.lex().ProcessWord(word, st.env)
		if err != nil {
			return "", err
		}
		c.reportUnset(st, cmd, unset)
		return out, nil
	}
}

// instruction lets one instruction change the state.
func (c *compiler) instruction(ctx context.Context, st *state, cmd instructions.Command) error {
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		if _, isArg := cmd.(*instructions.ArgCommand); !isArg { // an ARG's own order matters
			if err := ex.Expand(c.expander(st, cmd)); err != nil {
				return err
			}
		}
	}
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansionRaw); ok {
		err := ex.ExpandRaw(func(word string) (string, error) {
			lex := shell.NewLex('\\') // whatever the Dockerfile's escape character is
			lex.SkipProcessQuotes = true
			out, unset, err := lex.ProcessWord(word, st.env)
			if err == nil {
				c.reportUnset(st, cmd, unset)
			}
			return out, err
		})
		if err != nil {
			return err
		}
	}
	switch cmd := cmd.(type) {
	case *instructions.RunCommand:
		return c.run(ctx, st, cmd)
	case *instructions.CopyCommand:
		return c.copy(ctx, st, cmd)
	case *instructions.AddCommand:
		return c.addition(st, cmd)
	case *instructions.WorkdirCommand:
		return c.directory(st, cmd)
	}
	return c.configure(st, cmd)
}

// note adds a line to the history, marked as BuildKit's are.
func (st *state) note(createdBy string, v *Vertex) {
	if v != nil {
		createdBy += " # buildkit"
	}
	st.line(createdBy, v)
}

// line adds a line to the history as it is.
func (st *state) line(createdBy string, v *Vertex) {
	st.history = append(st.history, Entry{History: ocispec.History{CreatedBy: createdBy, Comment: comment, EmptyLayer: v == nil}, Vertex: v})
}

// step makes the vertex of cmd above the stage's.
func (c *compiler) step(st *state, cmd instructions.Command, v *Vertex) *Vertex {
	v.Parent, v.Name, v.Stage, v.Lines = st.vertex, text(cmd), c.stageName(st.index), lines(cmd.Location())
	st.vertex = c.add(v)
	return v
}

func (c *compiler) directory(st *state, cmd *instructions.WorkdirCommand) error {
	if !st.workdir && !path.IsAbs(cmd.Path) {
		c.linterOf(cmd).Run(&linter.RuleWorkdirRelativePath, cmd.Location(), linter.RuleWorkdirRelativePath.Format(cmd.Path))
	}
	st.workdir = true
	if cmd.Path == "" {
		return errors.New("WORKDIR needs a path")
	}
	st.config.WorkingDir = absolute(st.config.WorkingDir, cmd.Path)
	if st.config.WorkingDir == "/" {
		st.note("WORKDIR /", nil)
		return nil
	}
	v := c.step(st, cmd, &Vertex{Mkdir: &Mkdir{Path: st.config.WorkingDir, User: st.config.User}})
	st.line("WORKDIR "+st.config.WorkingDir, v) // without the mark, as BuildKit has it
	return nil
}

// absolute joins p to the working directory.
func absolute(dir, p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join("/", dir, p)
}

// destination is absolute that keeps what says "a directory".
func destination(dir, p string) string {
	out := absolute(dir, p)
	if out != "/" && (p == "" || p == "." || strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")) {
		out += "/"
	}
	return out
}

// source returns what --from means to an instruction that wants to copy or mount (verb) of
// it: a vertex, or the name of a context.
func (c *compiler) source(ctx context.Context, st *state, verb, name string) (v *Vertex, contextName string, err error) {
	key, image, isContext := c.contextOf(name)
	if isContext && image == "" {
		return nil, key, nil
	}
	if strings.EqualFold(name, "context") {
		return nil, "", nil
	}
	if !isContext {
		j, ok, err := c.from(st.index, name)
		if err != nil {
			return nil, "", err
		}
		if ok {
			v, err := c.stageSource(ctx, st, j)
			if err == nil && j > st.index {
				err = fmt.Errorf("cannot %s from stage %q, it needs to be defined before current stage %q", verb, name, c.stageName(st.index))
			}
			return v, "", err
		}
		if strings.ToLower(name) == "scratch" {
			return nil, "", errors.New("invalid from flag value scratch: it has no files")
		}
		image = name
	}
	if v, ok := c.foreign[name]; ok {
		return v, "", nil
	}
	if isContext && image == "scratch" {
		v = c.add(&Vertex{Name: "FROM scratch", Stage: c.stageName(st.index)})
		c.foreign[name] = v
		return v, "", nil
	}
	b, err := c.image(ctx, image, c.opts.Platform)
	if err != nil {
		hint := nearest(name, c.names())
		switch {
		case isContext:
		case errdefs.IsNotFound(err):
			return nil, "", fmt.Errorf("no stage and no image is called %q%s: %w", name, hint, err)
		case hint != "":
			return nil, "", fmt.Errorf("no stage is called %q%s; as an image: %w", name, hint, err)
		}
		return nil, "", err
	}
	v = c.add(&Vertex{Image: b, Name: "FROM " + name, Stage: c.stageName(st.index)})
	c.foreign[name] = v
	return v, "", nil
}

func (c *compiler) stageSource(ctx context.Context, st *state, j int) (*Vertex, error) {
	if j == st.index {
		return nil, fmt.Errorf("circular dependency detected on stage: %s", c.stageName(j))
	}
	from, err := c.stage(ctx, j)
	if err != nil {
		return nil, err
	}
	return from.vertex, nil
}
