package dockerfile

import (
	"context"
	"maps"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Outline is what a target can be given.
type Outline struct {
	Name, Description string // of the target
	Args              []Arg
	Secrets, SSH      []Given
}

// Arg is a build argument.
type Arg struct {
	Name, Description string
	Value             string // of --build-arg, or the default
	Lines             [2]int
}

// Given is a secret or an SSH agent that a command sees.
type Given struct {
	ID       string
	Required bool
	Lines    [2]int
}

// param is an ARG in a stage.
type param struct {
	Arg
	inherited bool                // from an ARG before FROM
	uses      map[string]struct{} // what its default refers to
}

// metaStage stands for what is before the first FROM.
const metaStage = -1

func paramOf(a instructions.KeyValuePairOptional, cmd *instructions.ArgCommand) param {
	return param{Arg: Arg{Name: a.Key, Description: a.DocComment, Lines: lines(cmd.Location())}}
}

// ReadOutline says what the target of a Dockerfile, and the stages that it needs, can be
// given. No image is looked at: what is in the environment of a base is not expanded. Errors
// are as those of Compile.
func ReadOutline(ctx context.Context, source []byte, opts Options) (*Outline, error) {
	opts.Base = func(_ context.Context, ref string, p ocispec.Platform) (*Base, error) {
		return &Base{Name: ref, Platform: p}, nil
	}
	c, err := open(source, opts)
	if err != nil {
		return nil, err
	}
	target, err := c.target()
	if err != nil {
		return nil, err
	}
	if _, err := c.stage(ctx, target); err != nil {
		return nil, err
	}
	// Of what several stages say, the target's counts first.
	stages := slices.SortedFunc(maps.Keys(c.states), func(a, b int) int { return b - a })
	stages = append([]int{target}, slices.DeleteFunc(stages, func(i int) bool { return i == target })...)
	out := &Outline{Name: c.stages[target].Name, Description: c.stages[target].DocComment}
	if out.Args, err = c.argsOf(stages); err != nil {
		return nil, err
	}
	for _, i := range stages {
		for _, v := range c.vertices {
			if v.Run == nil || v.Stage != c.stageName(i) {
				continue
			}
			for _, m := range v.Run.Mounts {
				if m.Type == MountSecret {
					out.Secrets = given(out.Secrets, m, v)
				}
				if m.Type == MountSSH {
					out.SSH = given(out.SSH, m, v)
				}
			}
		}
	}
	slices.SortStableFunc(out.Args, func(a, b Arg) int { return a.Lines[0] - b.Lines[0] })
	for _, list := range [][]Given{out.Secrets, out.SSH} {
		slices.SortStableFunc(list, func(a, b Given) int { return a.Lines[0] - b.Lines[0] })
	}
	return out, nil
}

func given(list []Given, m Mount, v *Vertex) []Given {
	if slices.ContainsFunc(list, func(g Given) bool { return g.ID == m.ID }) {
		return list
	}
	return append(list, Given{m.ID, m.Required, v.Lines})
}

// argsOf are the ARGs of stages, and those before FROM that they use.
func (c *compiler) argsOf(stages []int) ([]Arg, error) {
	var out []Arg
	seen := map[string]bool{}
	add := func(a Arg) {
		if !seen[a.Name] {
			seen[a.Name] = true
			out = append(out, a)
		}
	}
	meta := map[string]param{} // the last of a name counts
	for _, p := range c.params[metaStage] {
		if _, self := p.uses[p.Name]; self { // it changes the one before it
			for k := range meta[p.Name].uses {
				p.uses[k] = struct{}{}
			}
			delete(p.uses, p.Name)
		}
		meta[p.Name] = p
	}
	var use func(names map[string]struct{})
	use = func(names map[string]struct{}) {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if p, ok := meta[name]; ok && !seen[name] {
				add(p.Arg)
				use(p.uses)
			}
		}
	}
	for _, i := range stages {
		for _, p := range c.params[i] {
			if p.inherited {
				use(map[string]struct{}{p.Name: {}})
			} else {
				add(p.Arg)
			}
		}
		for _, word := range []string{c.stages[i].BaseName, c.stages[i].Platform} {
			found, err := c.lex().ProcessWordWithMatches(word, c.global)
			if err != nil {
				return nil, mistake(c.stages[i].Location, err)
			}
			use(found.Matched)
		}
	}
	return out, nil
}
