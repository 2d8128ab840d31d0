package buildkit

import (
	"fmt"
	"math"
	"strings"

	"github.com/containerd/platforms"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/images"
)

// names are what vertices are called, with their place in their stage: "[build 2/3] RUN …".
type names map[*dockerfile.Vertex]string

// namesOf numbers the vertices of each stage of each plan.
func namesOf(plans []*dockerfile.Plan) names {
	out := names{}
	for _, p := range plans {
		prefix := ""
		if len(plans) > 1 {
			prefix = platforms.Format(p.Platform) + " "
		}
		stages := map[string][]*dockerfile.Vertex{}
		var order []string
		for _, v := range p.Vertices {
			if out[v] != "" || isScratch(v) {
				continue
			}
			if v.Image != nil && v.Lines[0] == 0 { // of --from
				out[v] = text(v)
				continue
			}
			if stages[v.Stage] == nil {
				order = append(order, v.Stage)
			}
			stages[v.Stage] = append(stages[v.Stage], v)
		}
		for _, stage := range order {
			list := stages[stage]
			label := stage + " "
			if len(order) == 1 && strings.HasPrefix(stage, "stage-") {
				label = "" // the only one, and without a name
			}
			width := 1 + int(math.Log10(float64(len(list))))
			for i, v := range list {
				out[v] = fmt.Sprintf("[%s%s%*d/%d] %s", prefix, label, width, i+1, len(list), text(v))
			}
		}
	}
	return out
}

// of returns the name of v; one that no plan has keeps its own.
func (n names) of(v *dockerfile.Vertex) string {
	if name := n[v]; name != "" {
		return name
	}
	return text(v)
}

// text is the instruction of v; an image has its full name.
func text(v *dockerfile.Vertex) string {
	if v.Image == nil {
		return v.Name
	}
	if v.Image.Unnamed {
		return "FROM " + v.Image.Name
	}
	name := "FROM " + fullName(v.Image.Name)
	if d := v.Image.ID; d != "" && !strings.Contains(name, "@") {
		name += "@" + d.String()
	}
	return name
}

// fullName is a reference with its registry and tag, if it is one.
func fullName(ref string) string {
	if named, err := images.ParseName(ref, ""); err == nil {
		return named.String()
	}
	return ref
}

// Names of work that no Dockerfile has; docker's and buildx's own tools look for them.
func definitionName(file string) string {
	if file == "" {
		file = "Dockerfile"
	}
	return "[internal] load build definition from " + file
}

const (
	ignoreName  = "[internal] load .dockerignore"
	contextName = "[internal] load build context"
	remoteName  = "[internal] load remote build context"
)

// namedContextName is the builder's step that loads a named context.
func namedContextName(name string) string { return "[context " + name + "] load from client" }

// namedIgnoreName is the one that reads a named context's patterns.
func namedIgnoreName(name string) string { return "[context " + name + "] load .dockerignore" }
