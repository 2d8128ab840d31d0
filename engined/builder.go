package engined

import (
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build"
)

// BuilderConfig is "builder": what of the build cache stays, and what builds may do.
type BuilderConfig struct {
	GC           BuilderGC    `json:"gc"`
	Entitlements Entitlements `json:"entitlements"`
}

// BuilderGC is "builder.gc".
type BuilderGC struct {
	Enabled *bool           `json:"enabled"` // nil: true
	Policy  []BuilderPolicy `json:"policy"`  // none: one that keeps the default
	// Older and newer words for how much stays if there is no policy.
	DefaultKeepStorage   Size `json:"defaultKeepStorage"`
	DefaultReservedSpace Size `json:"defaultReservedSpace"`
	DefaultMaxUsedSpace  Size `json:"defaultMaxUsedSpace"`
	DefaultMinFreeSpace  Size `json:"defaultMinFreeSpace"`
}

// BuilderPolicy is one of "builder.gc.policy"; they are applied in their order.
type BuilderPolicy struct {
	All           bool     `json:"all"`
	Filter        []string `json:"filter"` // "unused-for=48h", "type=regular"
	KeepStorage   Size     `json:"keepStorage"`
	ReservedSpace Size     `json:"reservedSpace"`
	MaxUsedSpace  Size     `json:"maxUsedSpace"`
	MinFreeSpace  Size     `json:"minFreeSpace"`
}

// Entitlements is "builder.entitlements": what a client may allow a build. The defaults are
// dockerd's.
type Entitlements struct {
	NetworkHost      *bool `json:"network-host"`      // nil: true
	SecurityInsecure *bool `json:"security-insecure"` // nil: false
}

// denied are the entitlements that no client can grant.
func (e Entitlements) denied() []string {
	var out []string
	if e.NetworkHost != nil && !*e.NetworkHost {
		out = append(out, build.EntitlementHostNetwork)
	}
	if e.SecurityInsecure == nil || !*e.SecurityInsecure {
		out = append(out, build.EntitlementInsecure)
	}
	return out
}

// policies returns what is applied to the cache after a build; none if nothing is. Errors
// are of class ErrInvalidArgument.
func (g BuilderGC) policies() ([]build.Policy, error) {
	if g.Enabled != nil && !*g.Enabled {
		return nil, nil
	}
	if len(g.Policy) == 0 {
		p := build.Policy{All: true}
		p.Keep, p.MaxUsed, p.MinFree = int64(max(g.DefaultKeepStorage, g.DefaultReservedSpace)), int64(g.DefaultMaxUsedSpace), int64(g.DefaultMinFreeSpace)
		if p.Keep == 0 && p.MaxUsed == 0 && p.MinFree == 0 {
			p.Keep = build.DefaultKeep
		}
		return []build.Policy{p}, nil
	}
	var out []build.Policy
	for i, p := range g.Policy {
		b, err := p.policy()
		if err != nil {
			return nil, fmt.Errorf("builder.gc.policy[%d]: %w", i, err)
		}
		out = append(out, b)
	}
	return out, nil
}

func (p BuilderPolicy) policy() (out build.Policy, err error) {
	out = build.Policy{All: p.All, Keep: int64(max(p.KeepStorage, p.ReservedSpace)), MaxUsed: int64(p.MaxUsedSpace), MinFree: int64(p.MinFreeSpace)}
	for _, f := range p.Filter {
		key, value, _ := strings.Cut(strings.Replace(f, "==", "=", 1), "=")
		switch key {
		case "unused-for", "until":
			if out.UnusedFor, err = time.ParseDuration(value); err != nil || out.UnusedFor <= 0 {
				return out, fmt.Errorf("filter %q: want a duration, as in 48h: %w", f, errdefs.ErrInvalidArgument)
			}
		case "type":
			out.Types = append(out.Types, value)
		default:
			return out, fmt.Errorf("filter %q: want unused-for or type: %w", f, errdefs.ErrInvalidArgument)
		}
	}
	return out, nil
}
