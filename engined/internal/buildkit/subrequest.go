package buildkit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build"
	"strata/engined/internal/build/dockerfile"
	"strata/pkg/buildkit"
	"strata/pkg/cleanup"
)

// Subrequests that are answered.
const (
	requestDescribe = "frontend.subrequests.describe"
	requestLint     = "frontend.lint"
	requestTargets  = "frontend.targets"
	requestOutline  = "frontend.outline"
)

// requestVersion is that of all of them.
const requestVersion = "1.0.0"

// requestText is what a subrequest does.
var requestText = [][2]string{
	{requestDescribe, "List available subrequest types"},
	{requestLint, "Lint a Dockerfile"},
	{requestTargets, "List all targets current build supports"},
	{requestOutline, "List all parameters current build target supports"},
}

// subrequest answers a question about a Dockerfile instead of building it.
func (j *job) subrequest(ctx context.Context, id string, r *result) (map[string][]byte, error) {
	if id == requestDescribe {
		return describe()
	}
	var undo cleanup.Stack
	defer undo.Clean()
	switch id {
	case requestLint, requestTargets, requestOutline:
	default:
		return nil, unimplemented("subrequest " + id)
	}
	req, err := j.request(ctx, r, &undo)
	if err != nil {
		return nil, err
	}
	j.story.begin(req.Dockerfile)
	switch id {
	case requestTargets:
		return targets(req.Dockerfile.Text)
	case requestOutline:
		return j.outline(ctx, req)
	}
	return j.lint(ctx, req)
}

func describe() (map[string][]byte, error) {
	type request struct {
		Name        string              `json:"name"`
		Version     string              `json:"version"`
		Type        string              `json:"type"`
		Description string              `json:"description"`
		Metadata    []map[string]string `json:"metadata"`
	}
	var list []request
	for _, r := range requestText {
		list = append(list, request{r[0], requestVersion, "rpc", r[1], []map[string]string{{"name": "result.json"}, {"name": "result.txt"}}})
	}
	return answer(list, table(1, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "NAME\tVERSION\tDESCRIPTION")
		for _, r := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\n", strings.TrimPrefix(r.Name, "frontend."), r.Version, r.Description)
		}
	}))
}

// table is text in columns that are gap apart.
func table(gap int, fill func(w *tabwriter.Writer)) []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, gap, ' ', 0)
	fill(w)
	_ = w.Flush() // to memory
	return b.Bytes()
}

// answer is the result of a subrequest: as data, and for people.
func answer(v any, text []byte) (map[string][]byte, error) {
	raw, err := json.MarshalIndent(v, "", "  ")
	return map[string][]byte{"result.json": raw, "result.txt": text, "version": []byte(requestVersion)}, err
}

// location is a place in a Dockerfile, as subrequests have it: of source 0.
type location struct {
	Ranges []buildkit.Range `json:"ranges,omitempty"`
}

func locationOf(lines [2]int) location {
	if lines[0] == 0 {
		return location{}
	}
	return location{[]buildkit.Range{{Start: buildkit.Position{Line: lines[0]}, End: buildkit.Position{Line: max(lines[0], lines[1])}}}}
}

type lintWarning struct {
	RuleName    string   `json:"ruleName"`
	Description string   `json:"description,omitempty"`
	URL         string   `json:"url,omitempty"`
	Detail      string   `json:"detail,omitempty"`
	Location    location `json:"location"`
}

type lintError struct {
	Message  string   `json:"message"`
	Location location `json:"location"`
}

type lintResults struct {
	Warnings []lintWarning         `json:"warnings"`
	Sources  []buildkit.SourceInfo `json:"sources"`
	Error    *lintError            `json:"buildError,omitempty"`
}

// lint says what the linter has to say; a mistake in the Dockerfile is part of that.
func (j *job) lint(ctx context.Context, req build.Request) (map[string][]byte, error) {
	out := lintResults{Warnings: []lintWarning{}, Sources: []buildkit.SourceInfo{{Filename: req.Dockerfile.Name, Data: req.Dockerfile.Text, Language: language}}}
	list, err := j.s.builds.Check(ctx, req, j.story)
	mistake, ok := errors.AsType[*dockerfile.Error](err)
	switch {
	case ok:
		out.Error = &lintError{errorText(mistake), locationOf(mistake.Lines)}
	case errdefs.IsInvalidArgument(err): // of the Dockerfile as a whole, such as that warnings are errors
		out.Error = &lintError{Message: errorText(err)}
	case err != nil:
		return nil, err
	}
	var text strings.Builder
	for _, w := range list {
		lw := lintWarning{w.Rule, w.Detail, w.URL, w.Text, locationOf([2]int{w.Line, w.EndLine})}
		out.Warnings = append(out.Warnings, lw)
		fmt.Fprintf(&text, "\nWARNING: %s", w.Rule)
		if w.URL != "" {
			text.WriteString(" - " + w.URL)
		}
		text.WriteString("\n" + w.Text + "\n" + buildkit.Source{Info: &out.Sources[0], Ranges: lw.Location.Ranges}.Excerpt())
	}
	md, err := answer(out, []byte(text.String()))
	md["result.statuscode"] = []byte("0")
	if len(out.Warnings) > 0 || out.Error != nil {
		md["result.statuscode"] = []byte("1")
	}
	return md, err
}

type target struct {
	Name        string   `json:"name,omitempty"`
	Default     bool     `json:"default,omitempty"`
	Description string   `json:"description,omitempty"`
	Base        string   `json:"base,omitempty"`
	Platform    string   `json:"platform,omitempty"`
	Location    location `json:"location"`
}

// targets lists the stages of a Dockerfile.
func targets(text []byte) (map[string][]byte, error) {
	stages, err := dockerfile.Targets(text)
	if err != nil {
		return nil, err
	}
	list := struct {
		Targets []target `json:"targets"`
		Sources [][]byte `json:"sources"`
	}{Sources: [][]byte{text}}
	for _, s := range stages {
		list.Targets = append(list.Targets, target{s.Name, s.Default, s.Description, s.Base, s.Platform, locationOf(s.Lines)})
	}
	return answer(list, table(1, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "TARGET\tDESCRIPTION")
		for _, t := range list.Targets {
			name := t.Name
			if t.Default {
				name = strings.TrimSpace(name + " (default)")
			}
			fmt.Fprintf(w, "%s\t%s\n", name, t.Description)
		}
	}))
}

type arg struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Value       string   `json:"value,omitempty"`
	Location    location `json:"location"`
}

type given struct {
	Name     string   `json:"name"`
	Required bool     `json:"required,omitempty"`
	Location location `json:"location"`
}

type outline struct {
	Name        string   `json:"name,omitempty"`
	Description string   `json:"description,omitempty"`
	Args        []arg    `json:"args,omitempty"`
	Secrets     []given  `json:"secrets,omitempty"`
	SSH         []given  `json:"ssh,omitempty"`
	Sources     [][]byte `json:"sources,omitempty"`
}

// outline lists what the target can be given.
func (j *job) outline(ctx context.Context, req build.Request) (map[string][]byte, error) {
	o, err := j.s.builds.Outline(ctx, req)
	if err != nil {
		return nil, err
	}
	out := outline{Name: o.Name, Description: o.Description, Sources: [][]byte{req.Dockerfile.Text}}
	for _, a := range o.Args {
		out.Args = append(out.Args, arg{a.Name, a.Description, a.Value, locationOf(a.Lines)})
	}
	for _, g := range o.Secrets {
		out.Secrets = append(out.Secrets, given{g.ID, g.Required, locationOf(g.Lines)})
	}
	for _, g := range o.SSH {
		out.SSH = append(out.SSH, given{g.ID, g.Required, locationOf(g.Lines)})
	}
	return answer(out, out.text())
}

// text is an outline as buildx prints it.
func (o outline) text() []byte {
	var out []byte
	if o.Name != "" || o.Description != "" {
		out = append(table(1, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "TARGET:\t%s\n", cmp.Or(o.Name, "(default)"))
			if o.Description != "" {
				fmt.Fprintf(w, "DESCRIPTION:\t%s\n", o.Description)
			}
		}), '\n')
	}
	if len(o.Args) > 0 {
		out = append(append(out, table(3, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "BUILD ARG\tVALUE\tDESCRIPTION")
			for _, a := range o.Args {
				fmt.Fprintf(w, "%s\t%s\t%s\n", a.Name, a.Value, a.Description)
			}
		})...), '\n')
	}
	for _, l := range []struct {
		head string
		list []given
	}{{"SECRET", o.Secrets}, {"SSH", o.SSH}} {
		if len(l.list) == 0 {
			continue
		}
		out = append(append(out, table(3, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, l.head+"\tREQUIRED")
			for _, g := range l.list {
				required := ""
				if g.Required {
					required = "true"
				}
				fmt.Fprintf(w, "%s\t%s\n", g.Name, required)
			}
		})...), '\n')
	}
	return out
}
