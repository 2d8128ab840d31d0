package dockerfile

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/patternmatcher"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// argCheck is the build argument that comes before the directive "check".
const argCheck = "BUILDKIT_DOCKERFILE_CHECK"

// openLint reads which rules are wanted, of the directive "check" or of the argument.
func (c *compiler) openLint(source []byte) error {
	wish, _, _, _ := parser.ParseDirective("check", source)
	if v, ok := c.opts.Args[argCheck]; ok {
		wish = v
	}
	cfg, err := linter.ParseLintOptions(wish)
	if err != nil {
		return fmt.Errorf("check=%s: %w: %w", wish, err, errdefs.ErrInvalidArgument)
	}
	cfg.Warn = func(rule, description, url, text string, location []parser.Range) {
		at := lines(location)
		c.plan.Warnings = append(c.plan.Warnings, Warning{Rule: rule, Detail: description, URL: url, Text: text, Line: at[0], EndLine: at[1]})
	}
	c.lint = linter.New(cfg)
	if len(c.opts.Ignore) > 0 {
		if c.ignored, err = patternmatcher.New(c.opts.Ignore); err != nil {
			return fmt.Errorf(".dockerignore: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// linterOf is the linter as the comments above an instruction want it: "# check=skip=RULE".
func (c *compiler) linterOf(cmd interface{ Comments() []string }) *linter.Linter {
	return c.lint.WithMergedConfigFromComments(cmd.Comments())
}

// linterOfStage is linterOf for a FROM.
func (c *compiler) linterOfStage(s *instructions.Stage) *linter.Linter {
	return c.lint.WithMergedConfigFromComments(s.Comments)
}

// verdict is an error if the Dockerfile wants warnings to be errors and there are some.
func (c *compiler) verdict() error {
	err := c.lint.Error()
	if err == nil {
		return nil
	}
	at := [2]int{}
	if w := c.plan.Warnings; len(w) > 0 {
		at = [2]int{w[0].Line, w[0].EndLine}
	}
	return &Error{Lines: at, Err: fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)}
}

// checkStages looks at what can be seen before anything is expanded.
func (c *compiler) checkStages(meta []instructions.ArgCommand) {
	c.checkCasing()
	args := c.defaults(meta)
	for _, s := range c.stages {
		if args == nil {
			return // the mistake is reported where it counts
		}
		name, _, err := c.lex().ProcessWord(s.BaseName, args)
		if err != nil {
			return
		}
		if _, err := reference.ParseNormalizedNamed(name); err != nil {
			c.lint.Run(&linter.RuleInvalidDefaultArgInFrom, s.Location, linter.RuleInvalidDefaultArgInFrom.Format(s.BaseName))
		}
	}
}

// defaults are the arguments before FROM as if no build argument were given; nil if one
// cannot be expanded.
func (c *compiler) defaults(meta []instructions.ArgCommand) *environment {
	out := c.platformArgs(nil)
	for i := range meta {
		for _, a := range meta[i].Args {
			if a.Value == nil {
				continue
			}
			v, _, err := c.lex().ProcessWord(*a.Value, out)
			if err != nil {
				return nil
			}
			out.set(a.Key, v)
		}
	}
	return out
}

// checkCasing wants all instructions in the case that most have.
func (c *compiler) checkCasing() {
	type word struct {
		name string
		at   []parser.Range
	}
	var words []word
	for _, s := range c.stages {
		words = append(words, word{s.OrigCmd, s.Location})
		for _, cmd := range s.Commands {
			words = append(words, word{cmd.Name(), cmd.Location()})
		}
	}
	lower, upper := 0, 0
	for _, w := range words {
		switch w.name {
		case strings.ToLower(w.name):
			lower++
		case strings.ToUpper(w.name):
			upper++
		}
	}
	want, fix := "uppercase", strings.ToUpper
	if lower > upper {
		want, fix = "lowercase", strings.ToLower
	}
	for _, w := range words {
		if w.name != fix(w.name) {
			c.lint.Run(&linter.RuleConsistentInstructionCasing, w.at, linter.RuleConsistentInstructionCasing.Format(w.name, want))
		}
	}
}

// checkFrom warns of variables in a FROM that nobody has declared.
func (c *compiler) checkFrom(s *instructions.Stage, unset map[string]struct{}) {
	for v := range unset {
		if !slices.Contains(c.declared, v) {
			c.linterOfStage(s).Run(&linter.RuleUndefinedArgInFrom, s.Location, linter.RuleUndefinedArgInFrom.Format(v, near(v, c.known())))
		}
	}
}

// known are the variables that a FROM may use.
func (c *compiler) known() []string { return append(c.global.Keys(), c.declared...) }

// meant suggests a name for one that a FROM uses and nobody has declared.
func (c *compiler) meant(unset map[string]struct{}) string {
	for _, v := range slices.Sorted(maps.Keys(unset)) {
		if hint := nearest(v, c.known()); hint != "" {
			return hint
		}
	}
	return ""
}

// checkPlatform looks at --platform of a FROM.
func (c *compiler) checkPlatform(s *instructions.Stage, found shell.ProcessWordResult) {
	if len(found.Matched) == 1 && len(found.Unmatched) == 0 {
		want, _ := c.global.Get("TARGETPLATFORM")
		if _, ok := found.Matched["TARGETPLATFORM"]; ok && found.Result == want {
			c.linterOfStage(s).Run(&linter.RuleRedundantTargetPlatform, s.Location, linter.RuleRedundantTargetPlatform.Format(s.Platform))
		}
		return
	}
	p, err := platforms.Parse(found.Result)
	if len(found.Matched)+len(found.Unmatched) > 0 || err != nil || strings.Contains(s.Name, p.OS) || strings.Contains(s.Name, p.Architecture) {
		return
	}
	c.linterOfStage(s).Run(&linter.RuleFromPlatformFlagConstDisallowed, s.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(found.Result))
}

// checkBase compares an image's platform with the wanted one.
func (c *compiler) checkBase(s *instructions.Stage, name string, want, have ocispec.Platform) {
	if want.OS == have.OS && want.Architecture == have.Architecture {
		return
	}
	c.lint.Run(&linter.RuleInvalidBaseImagePlatform, s.Location, linter.RuleInvalidBaseImagePlatform.Format(
		name, platforms.FormatAll(platforms.Normalize(want)), platforms.FormatAll(platforms.Normalize(have))))
}

// checkIgnored warns of sources that .dockerignore leaves out. What exceptions do cannot be
// told without the files.
func (c *compiler) checkIgnored(cmd instructions.Command, sources []string) {
	if c.ignored == nil || c.ignored.Exclusions() {
		return
	}
	name := "Copy"
	if strings.EqualFold(cmd.Name(), "add") {
		name = "Add"
	}
	for _, s := range sources {
		s = strings.TrimPrefix(path.Clean("/"+s), "/")
		if s == "" {
			s = "."
			if !c.ignoresAll() {
				continue // the context's root is no file
			}
		}
		if out, err := c.ignored.MatchesOrParentMatches(s); err == nil && out {
			c.linterOf(cmd).Run(&linter.RuleCopyIgnoredFile, cmd.Location(), linter.RuleCopyIgnoredFile.Format(name, s))
		}
	}
}

// ignoresAll reports whether a pattern of .dockerignore means everything.
func (c *compiler) ignoresAll() bool {
	return slices.ContainsFunc(c.ignored.Patterns(), func(p *patternmatcher.Pattern) bool {
		return slices.Contains([]string{"*", "**", "**/*"}, p.String())
	})
}

// checkPort looks at a word of EXPOSE.
func (c *compiler) checkPort(p string, cmd instructions.Command) {
	ports, proto, _ := strings.Cut(p, "/")
	if proto != strings.ToLower(proto) {
		c.linterOf(cmd).Run(&linter.RuleExposeProtoCasing, cmd.Location(), linter.RuleExposeProtoCasing.Format(p))
	}
	if strings.Contains(ports, ":") && !strings.Contains(ports, "$") {
		c.linterOf(cmd).Run(&linter.RuleExposeInvalidFormat, cmd.Location(), linter.RuleExposeInvalidFormat.Format(p))
	}
}

// checkRepeats warns of instructions of which only the last has an effect.
func (c *compiler) checkRepeats(st *state) {
	last := map[string]instructions.Command{}
	for _, cmd := range st.stage.Commands {
		switch name := strings.ToUpper(cmd.Name()); name {
		case "CMD", "ENTRYPOINT", "HEALTHCHECK":
			if prev, ok := last[name]; ok {
				c.linterOf(cmd).Run(&linter.RuleMultipleInstructionsDisallowed, prev.Location(), linter.RuleMultipleInstructionsDisallowed.Format(name))
			}
			last[name] = cmd
		}
	}
}

func (c *compiler) reportUnset(st *state, cmd instructions.Command, unset map[string]struct{}) {
	for v := range unset {
		if !slices.Contains(st.declared, v) && !noEnv[v] {
			c.linterOf(cmd).Run(&linter.RuleUndefinedVar, cmd.Location(), linter.RuleUndefinedVar.Format(v, near(v, st.env.Keys())))
		}
	}
}

func near(v string, keys []string) string {
	s := nearest(v, keys)
	s = strings.TrimPrefix(s, " (did you mean ")
	return strings.TrimSuffix(s, "?)")
}

// secretWords are parts of names whose values do not belong into an image.
var secretWords = []string{"apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"}

// harmlessWords are parts of names that say that the value is none of those.
var harmlessWords = []string{"public", "file", "version"}

func (c *compiler) checkSecret(instruction, key string, cmd instructions.Command) {
	parts := strings.Split(strings.ToLower(key), "_")
	if slices.ContainsFunc(parts, func(p string) bool { return slices.Contains(harmlessWords, p) }) {
		return
	}
	for _, p := range parts {
		if slices.Contains(secretWords, p) {
			c.linterOf(cmd).Run(&linter.RuleSecretsUsedInArgOrEnv, cmd.Location(), linter.RuleSecretsUsedInArgOrEnv.Format(instruction, key))
			return
		}
	}
}
