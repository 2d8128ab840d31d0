package dockerfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/patternmatcher"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Version is that of the Dockerfile's language which is read: BuildKit 0.32's.
const Version = "1.25"

// MaxSize bounds a Dockerfile, in bytes.
const MaxSize = 4 << 20

// Options are what a Dockerfile is compiled with.
type Options struct {
	Args      map[string]string // of --build-arg
	Labels    map[string]string // of --label
	Target    string            // stage; "" for the last
	Platform  ocispec.Platform  // of the result
	Asked     bool              // somebody asked for Platform: the result says it, whatever its base is made for
	Host      ocispec.Platform  // where commands run
	Ignore    []string          // patterns of .dockerignore, for the linter
	AllStages bool              // compile those that the target does not need, too
	// Contexts are the named contexts, which come before stages and images of that name: ""
	// for files, or what Base is asked for.
	Contexts map[string]string
	// Base returns an image. It is called for the images that the target needs, side by
	// side, each reference and platform once.
	Base func(ctx context.Context, ref string, platform ocispec.Platform) (*Base, error)
}

// Error is a mistake in a Dockerfile, with the lines where it is.
type Error struct {
	Lines [2]int // zero if unknown
	Err   error
}

func (e *Error) Error() string {
	if e.Lines[0] == 0 || !errdefs.IsInvalidArgument(e.Err) || strings.Contains(e.Err.Error(), "parse error on line") {
		return e.Err.Error()
	}
	return fmt.Sprintf("dockerfile parse error on line %d: %v", e.Lines[0], e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func mistake(r []parser.Range, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	if le, ok := errors.AsType[*parser.LocationError](err); ok && len(le.Locations) > 0 && len(r) == 0 {
		r = le.Locations[0]
	}
	if !hasClass(err) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return &Error{Lines: lines(r), Err: err}
}

// hasClass reports whether err has a class already: a registry's answer is no mistake of
// the Dockerfile.
func hasClass(err error) bool {
	for _, is := range []func(error) bool{
		errdefs.IsNotFound, errdefs.IsNotImplemented, errdefs.IsInvalidArgument, errdefs.IsUnavailable, errdefs.IsUnauthorized, errdefs.IsPermissionDenied,
		errdefs.IsCanceled, errdefs.IsDeadlineExceeded, errdefs.IsDataLoss, errdefs.IsResourceExhausted, errdefs.IsInternal, errdefs.IsUnknown,
	} {
		if is(err) {
			return true
		}
	}
	_, fromNet := errors.AsType[net.Error](err)
	return fromNet
}

func lines(r []parser.Range) [2]int {
	if len(r) == 0 {
		return [2]int{}
	}
	return [2]int{r[0].Start.Line, r[len(r)-1].End.Line}
}

// compiler is one run of Compile.
type compiler struct {
	opts     Options
	escape   rune
	stages   []instructions.Stage
	global   *environment // ARG before FROM
	declared []string     // their names, with or without a value
	states   map[int]*state
	bases    map[baseKey]*Base
	foreign  map[string]*Vertex // images of COPY --from
	steps    map[int][]Step
	plan     *Plan
	lint     *linter.Linter
	ignored  *patternmatcher.PatternMatcher // nil for nothing
	vertices []*Vertex
	params   map[int][]param // ARGs of the stages; of metaStage those before FROM
}

type baseKey struct{ ref, platform string }

// Compile reads a Dockerfile. With an error, the plan (perhaps nil) has warnings only. Errors are of class ErrInvalidArgument, with the lines as
// *Error, or what Options.Base returned.
func Compile(ctx context.Context, source []byte, opts Options) (*Plan, error) {
	c, err := open(source, opts)
	if c == nil {
		return nil, err
	}
	if err != nil {
		return c.plan, err
	}
	target, err := c.target()
	if err != nil {
		return c.plan, err
	}
	if err := c.prefetch(ctx, target); err != nil {
		return c.plan, err
	}
	st, err := c.stage(ctx, target)
	if err != nil {
		return c.plan, err
	}
	for i := range c.stages {
		if !opts.AllStages {
			break
		}
		if _, err := c.stage(ctx, i); err != nil {
			return c.plan, err
		}
	}
	return c.finish(st), c.verdict()
}

// open reads a Dockerfile as far as it can be without looking at its stages. With an error,
// the compiler (perhaps nil) has warnings only.
func open(source []byte, opts Options) (*compiler, error) {
	if len(source) > MaxSize {
		return nil, fmt.Errorf("the Dockerfile is larger than %d bytes: %w", MaxSize, errdefs.ErrInvalidArgument)
	}
	if len(bytes.TrimSpace(source)) == 0 {
		return nil, fmt.Errorf("the Dockerfile cannot be empty: %w", errdefs.ErrInvalidArgument)
	}
	c := &compiler{
		opts: opts, states: map[int]*state{}, bases: map[baseKey]*Base{}, foreign: map[string]*Vertex{}, steps: map[int][]Step{}, plan: &Plan{},
		params: map[int][]param{},
	}
	if err := c.openLint(source); err != nil {
		return nil, err
	}
	return c, c.parse(source)
}

func (c *compiler) parse(source []byte) error {
	ast, err := parser.Parse(bytes.NewReader(source))
	if err != nil {
		return mistake(nil, err)
	}
	c.escape = ast.EscapeToken
	for _, w := range ast.Warnings {
		line := 0
		if w.Location != nil {
			line = w.Location.Start.Line
		}
		if w.URL == linter.RuleNoEmptyContinuation.URL && w.Location != nil {
			c.lint.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
			continue
		}
		c.plan.Warnings = append(c.plan.Warnings, Warning{Text: w.Short, URL: w.URL, Line: line})
	}
	var meta []instructions.ArgCommand
	if c.stages, meta, err = instructions.Parse(ast.AST, c.lint); err != nil {
		return mistake(nil, err)
	}
	if len(c.stages) == 0 {
		return mistake(nil, errors.New("dockerfile contains no stages to build"))
	}
	if err := c.globals(meta); err != nil {
		return err
	}
	if c.plan.Epoch, err = c.epoch(); err != nil {
		return err
	}
	c.checkStages(meta)
	return nil
}

// globals sets the platform arguments and those before the first FROM.
func (c *compiler) globals(meta []instructions.ArgCommand) error {
	c.global = c.platformArgs(c.opts.Args)
	for i := range meta {
		for _, a := range meta[i].Args {
			c.declared = append(c.declared, a.Key)
			value, p := a.Value, paramOf(a, &meta[i])
			if v, ok := c.opts.Args[a.Key]; ok {
				value = &v
			} else if value != nil {
				found, err := c.lex().ProcessWordWithMatches(*value, c.global)
				if err != nil {
					return mistake(meta[i].Location(), err)
				}
				value, p.uses = &found.Result, found.Matched
			}
			if value != nil {
				c.global.set(a.Key, *value)
				p.Value = *value
			}
			c.params[metaStage] = append(c.params[metaStage], p)
		}
	}
	return nil
}

// platformArgs are the arguments that nobody has to declare before FROM.
func (c *compiler) platformArgs(given map[string]string) *environment {
	b, t := c.opts.Host, c.opts.Platform
	target := c.opts.Target
	if target == "" && len(c.stages) > 0 {
		target = c.stages[len(c.stages)-1].Name
	}
	if target == "" {
		target = "default"
	}
	out := &environment{}
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", platforms.FormatAll(b)},
		{"BUILDOS", b.OS},
		{"BUILDOSVERSION", b.OSVersion},
		{"BUILDARCH", b.Architecture},
		{"BUILDVARIANT", b.Variant},
		{"TARGETPLATFORM", platforms.FormatAll(t)},
		{"TARGETOS", t.OS},
		{"TARGETOSVERSION", t.OSVersion},
		{"TARGETARCH", t.Architecture},
		{"TARGETVARIANT", t.Variant},
		{"TARGETSTAGE", target},
	} {
		if v, ok := given[kv[0]]; ok {
			kv[1] = v
		}
		out.set(kv[0], kv[1])
	}
	return out
}

func (c *compiler) lex() *shell.Lex { return shell.NewLex(c.escape) }

// target returns the index of the stage to build.
func (c *compiler) target() (int, error) {
	seen := map[string]bool{}
	for _, s := range c.stages {
		if s.Name == "" {
			continue
		}
		name := strings.ToLower(s.Name)
		if seen[name] {
			c.lint.Run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		if name == "scratch" || name == "context" {
			c.lint.Run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		seen[name] = true
	}
	if c.opts.Target == "" {
		return len(c.stages) - 1, nil
	}
	if i, ok := c.named(c.opts.Target, len(c.stages)); ok {
		return i, nil
	}
	if n, err := strconv.Atoi(c.opts.Target); err == nil && n >= 0 && n < len(c.stages) {
		return n, nil
	}
	return 0, fmt.Errorf("target stage %q could not be found%s: %w", c.opts.Target, nearest(c.opts.Target, c.names()), errdefs.ErrInvalidArgument)
}

// named finds the last stage called name among the first n.
func (c *compiler) named(name string, n int) (int, bool) {
	for i := n - 1; i >= 0; i-- {
		if c.stages[i].Name != "" && strings.EqualFold(c.stages[i].Name, name) {
			return i, true
		}
	}
	return 0, false
}

func (c *compiler) names() []string {
	var out []string
	for _, s := range c.stages {
		if s.Name != "" {
			out = append(out, s.Name)
		}
	}
	return out
}

// from finds the stage that COPY --from or a mount means, by name or by number. A stage
// after self is found, too: whoever needs it refuses it.
func (c *compiler) from(self int, name string) (int, bool, error) {
	if i, ok := c.named(name, len(c.stages)); ok {
		return i, true, nil
	}
	n, err := strconv.Atoi(name)
	if err != nil {
		return 0, false, nil //nolint:nilerr // no number: an image
	}
	if n < 0 || n >= len(c.stages) {
		return 0, false, fmt.Errorf("invalid from flag value %s: there are %d stages, counted from 0", name, len(c.stages))
	}
	if n >= self {
		return 0, false, fmt.Errorf("invalid from flag value %s: refers to the current or a later build stage", name)
	}
	return n, true, nil
}

// base returns what FROM of stage i says: a stage before it, or an image and its platform;
// a ref that begins with contextPrefix is a named context.
func (c *compiler) base(i int) (stage int, ref string, platform ocispec.Platform, err error) {
	s := c.stages[i]
	platform = c.opts.Platform
	name, unset, err := c.lex().ProcessWord(s.BaseName, c.global)
	if err != nil {
		return 0, "", platform, mistake(s.Location, err)
	}
	c.checkFrom(&s, unset)
	if name == "" {
		return 0, "", platform, mistake(s.Location, fmt.Errorf("base name (%s) should not be blank", s.BaseName))
	}
	if s.Platform != "" {
		found, err := c.lex().ProcessWordWithMatches(s.Platform, c.global)
		p := found.Result
		if err == nil {
			c.checkFrom(&s, found.Unmatched)
			c.checkPlatform(&s, found)
		}
		switch {
		case err != nil:
		case p == "":
			err = fmt.Errorf("empty platform value from expression %s%s", s.Platform, c.meant(found.Unmatched))
		default:
			if platform, err = platforms.Parse(p); err != nil {
				err = fmt.Errorf("failed to parse platform %s: %w%s", s.Platform, err, c.meant(found.Unmatched))
			}
		}
		if err != nil {
			return 0, "", platform, mistake(s.Location, err)
		}
	}
	if ctxName, image, ok := c.contextOf(name); ok {
		if image == "" {
			image = contextPrefix + ctxName
		}
		return -1, image, platform, nil
	}
	if j, ok := c.named(name, i); ok {
		return j, "", platform, nil
	}
	return -1, name, platform, nil
}

// contextPrefix marks a base that is a named context of files.
const contextPrefix = "context:"

// contextOf finds the named context that name means, and the image that it is, if any. The
// name of an image means the context however it is written: alpine, docker.io/library/alpine:latest.
func (c *compiler) contextOf(name string) (key, image string, ok bool) {
	if image, ok = c.opts.Contexts[name]; ok {
		return name, image, true
	}
	full := fullName(name)
	for _, k := range slices.Sorted(maps.Keys(c.opts.Contexts)) {
		if strings.EqualFold(k, name) || full != "" && fullName(k) == full {
			return k, c.opts.Contexts[k], true
		}
	}
	return "", "", false
}

func fullName(name string) string {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	return reference.TagNameOnly(n).String()
}

// prefetch asks for the images of all stages that target needs, side by side.
func (c *compiler) prefetch(ctx context.Context, target int) error {
	seen := map[int]bool{}
	type wish struct {
		platform ocispec.Platform
		at       []parser.Range
	}
	wanted := map[baseKey]wish{}
	var visit func(i int) error
	visit = func(i int) error {
		if seen[i] {
			return nil
		}
		seen[i] = true
		before := len(c.plan.Warnings)
		j, ref, p, err := c.base(i)
		if err != nil {
			return err
		}
		c.plan.Warnings = c.plan.Warnings[:before] // they come again when the stage is compiled
		if j >= 0 {
			err = visit(j)
		} else if ref != "scratch" && !strings.HasPrefix(ref, contextPrefix) {
			wanted[baseKey{ref, platforms.FormatAll(p)}] = wish{p, c.stages[i].Location}
		}
		for _, cmd := range c.stages[i].Commands {
			for _, name := range references(cmd) {
				if _, _, ok := c.contextOf(name); ok {
					continue
				}
				if j, ok, _ := c.from(i, name); ok && err == nil {
					err = visit(j)
				}
			}
		}
		return err
	}
	if err := visit(target); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	results := make(chan struct {
		key  baseKey
		base *Base
	}, len(wanted))
	for key, w := range wanted {
		g.Go(func() error {
			b, err := c.opts.Base(ctx, key.ref, w.platform)
			if err == nil {
				results <- struct {
					key  baseKey
					base *Base
				}{key, b}
			}
			return mistake(w.at, err)
		})
	}
	err := g.Wait()
	close(results)
	for r := range results {
		c.bases[r.key] = r.base
	}
	return err
}

// references are the names that an instruction's --from and mounts say.
func references(cmd instructions.Command) []string {
	switch cmd := cmd.(type) {
	case *instructions.CopyCommand:
		if cmd.From != "" {
			return []string{cmd.From}
		}
	case *instructions.RunCommand:
		var out []string
		for _, m := range instructions.GetMounts(cmd) {
			if m.From != "" {
				out = append(out, m.From)
			}
		}
		return out
	}
	return nil
}

func (c *compiler) image(ctx context.Context, ref string, p ocispec.Platform) (*Base, error) {
	key := baseKey{ref, platforms.FormatAll(p)}
	if b, ok := c.bases[key]; ok {
		return b, nil
	}
	b, err := c.opts.Base(ctx, ref, p)
	if err == nil {
		c.bases[key] = b
	}
	return b, err
}

// add makes v part of the graph.
func (c *compiler) add(v *Vertex) *Vertex {
	c.vertices = append(c.vertices, v)
	return v
}

// finish makes the plan of the target's state.
func (c *compiler) finish(st *state) *Plan {
	p := c.plan
	p.Target, p.Platform, p.Config, p.History, p.Parent, p.Author = st.vertex, st.platform, st.config, st.history, st.parent, st.author
	p.Config.Labels = mergeLabels(p.Config.Labels, c.opts.Labels)
	if c.opts.Asked {
		p.Platform = asked(c.opts.Platform, st.platform)
	}
	for v := st.vertex; v != nil; v = v.Parent {
		v.Exported = true
	}
	for i := range c.stages {
		p.Steps = append(p.Steps, c.steps[i]...)
	}
	p.Vertices = c.vertices
	slices.SortStableFunc(p.Warnings, func(a, b Warning) int { return a.Line - b.Line })
	p.Warnings = slices.Compact(p.Warnings)
	return p
}

// asked is the platform that somebody asked for, with what only the base knows of it.
func asked(want, have ocispec.Platform) ocispec.Platform {
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return want
	}
	if want.Variant == "" {
		want.Variant = have.Variant
	}
	if want.OSVersion == "" {
		want.OSVersion = have.OSVersion
	}
	if want.OSFeatures == nil {
		want.OSFeatures = have.OSFeatures
	}
	return want
}

func mergeLabels(have, more map[string]string) map[string]string {
	if len(more) == 0 {
		return have
	}
	out := map[string]string{}
	maps.Copy(out, have)
	maps.Copy(out, more)
	return out
}

// argEpoch is the argument that says when everything was made.
const argEpoch = "SOURCE_DATE_EPOCH"

// epoch reads SOURCE_DATE_EPOCH. BuildKit takes it of a source, too, by its name.
func (c *compiler) epoch() (time.Time, error) {
	s, ok := c.opts.Args[argEpoch]
	if !ok {
		s, _ = c.global.Get(argEpoch) // "" for none
	}
	if s == "" {
		return time.Time{}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0).UTC(), nil
	}
	_, _, isContext := c.contextOf(s)
	if _, isStage := c.named(s, len(c.stages)); isStage || isContext || s == "context" {
		return time.Time{}, fmt.Errorf("%s=%s, the time of a source: %w", argEpoch, s, errdefs.ErrNotImplemented)
	}
	return time.Time{}, fmt.Errorf("invalid %s: %s: it is not a number of seconds: %w", argEpoch, s, errdefs.ErrInvalidArgument)
}
