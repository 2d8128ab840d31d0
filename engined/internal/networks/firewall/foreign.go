package firewall

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"strata/pkg/linux/nft"
)

// Obstacle is a chain of another program that stops packets which our table lets through.
// An accept of ours does not overrule it, at no priority: in netfilter a packet must pass
// every base chain of a hook, and what is forwarded passes the hook. So nothing that we
// could write into our own table helps, and tables of others are not ours to write.
type Obstacle struct {
	Rule string // "table ip filter, chain FORWARD: policy drop"

	family nftables.TableFamily
	legacy bool
	table  string
	chain  string
	in     []string // interfaces from which, and to which, it lets packets pass
	out    []string
}

// Stops reports whether containers on a bridge are affected: whether nobody has let them
// through yet.
func (o Obstacle) Stops(bridge string) bool {
	return !slices.Contains(o.in, bridge) || !slices.Contains(o.out, bridge)
}

// Remedy returns the commands that let containers on the bridges through. Isolation stays:
// our own table goes on dropping what must not pass.
func (o Obstacle) Remedy(bridges ...string) string {
	tool := "iptables"
	if o.family == nftables.TableFamilyIPv6 {
		tool = "ip6tables"
	}
	if o.legacy {
		tool += "-legacy"
	}
	var out []string
	for _, b := range bridges {
		switch {
		case o.table == "firewalld":
			out = append(out, "firewall-cmd --permanent --zone=trusted --add-interface="+b)
		case o.table == "filter" && (o.chain == "FORWARD" || o.chain == "DOCKER-USER"):
			out = append(out, fmt.Sprintf("%s -I %s -i %s -j ACCEPT", tool, o.chain, b), fmt.Sprintf("%s -I %s -o %s -j ACCEPT", tool, o.chain, b))
		default:
			for _, direction := range []string{"iifname", "oifname"} {
				out = append(out, fmt.Sprintf("nft insert rule %s %s %s %s %s accept", familyName(o.family), o.table, o.chain, direction, b))
			}
		}
	}
	if o.table == "firewalld" {
		out = append(out, "firewall-cmd --reload")
	}
	return strings.Join(out, " && ")
}

// Obstacles lists chains of others, on the forward hook, that end in dropping: by policy, or
// by a last rule that says so of everything. It reads only. Tables of the iptables before
// nftables are among them.
func Obstacles() []Obstacle {
	out := legacyObstacles()
	c, err := nftables.New()
	if err != nil {
		return out
	}
	chains, err := c.ListChains()
	if err != nil {
		return out // no nftables: the next change of our table says so
	}
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Type != nftables.ChainTypeFilter || ch.Table.Family == nftables.TableFamilyBridge {
			continue
		}
		o := Obstacle{family: ch.Table.Family, table: ch.Table.Name, chain: ch.Name}
		ends := o.readRules(c, chains, ch)
		if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			ends = "policy drop"
		}
		if ends == "" {
			continue
		}
		o.Rule = fmt.Sprintf("table %s %s, chain %s: %s", familyName(o.family), o.table, ch.Name, ends)
		if slices.ContainsFunc(chains, func(c *nftables.Chain) bool {
			return c.Name == "DOCKER-USER" && c.Table.Name == o.table && c.Table.Family == o.family
		}) {
			o.chain = "DOCKER-USER" // Docker puts its own before everything in FORWARD, except this
		}
		out = append(out, o)
	}
	return out
}

// readRules learns which interfaces the rules of the chain's table let pass, and returns
// what a last rule does with all packets if it drops them.
func (o *Obstacle) readRules(c *nftables.Conn, chains []*nftables.Chain, base *nftables.Chain) (ends string) {
	for _, ch := range chains {
		if ch.Table.Name != o.table || ch.Table.Family != o.family || ch.Hooknum != nil && ch.Name != base.Name {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			continue // it was deleted meanwhile
		}
		for i, r := range rules {
			if acts(r, expr.VerdictAccept) {
				o.in = append(o.in, interfacesOf(r, expr.MetaKeyIIFNAME)...)
				o.out = append(o.out, interfacesOf(r, expr.MetaKeyOIFNAME)...)
			}
			if ch.Name == base.Name && i == len(rules)-1 {
				ends = unconditional(r)
			}
		}
	}
	return ends
}

func acts(r *nftables.Rule, kind expr.VerdictKind) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		v, ok := e.(*expr.Verdict)
		return ok && v.Kind == kind
	})
}

// interfacesOf returns the names that a rule compares a packet's interface with.
func interfacesOf(r *nftables.Rule, key expr.MetaKey) []string {
	var out []string
	for i, e := range r.Exprs[:max(0, len(r.Exprs)-1)] {
		if m, ok := e.(*expr.Meta); ok && m.Key == key {
			if c, ok := r.Exprs[i+1].(*expr.Cmp); ok && c.Op == expr.CmpOpEq {
				name, _, _ := bytes.Cut(c.Data, []byte{0})
				out = append(out, string(name))
			}
		}
	}
	return out
}

// unconditional returns what a rule without conditions does with packets, if they end there.
func unconditional(r *nftables.Rule) string {
	what := ""
	for _, e := range r.Exprs {
		switch v := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			what = "the last rule rejects"
		case *expr.Verdict:
			if v.Kind != expr.VerdictDrop {
				return ""
			}
			what = "the last rule drops"
		default:
			return "" // a condition
		}
	}
	return what
}

func legacyObstacles() []Obstacle {
	var out []Obstacle
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		l, ok, err := nft.ReadLegacy(f == nftables.TableFamilyIPv6)
		if err == nil && ok && l.Drops {
			out = append(out, Obstacle{
				Rule:   fmt.Sprintf("legacy iptables, table %s filter, chain FORWARD: policy drop", familyName(f)),
				family: f, legacy: true, table: "filter", chain: "FORWARD", in: l.In, out: l.Out,
			})
		}
	}
	return out
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	default:
		return fmt.Sprintf("family %d", f)
	}
}
