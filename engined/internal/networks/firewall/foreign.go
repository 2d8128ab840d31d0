package firewall

import (
	"fmt"

	"github.com/google/nftables"
)

// Obstacle is a rule of another program that stops packets which our table lets through:
// in nftables one table's accept does not overrule another's drop.
type Obstacle struct {
	Rule string // "table ip filter, chain FORWARD: policy drop"

	family nftables.TableFamily
	table  string
	chain  string
}

// Remedy returns what the operator can do, for containers on bridge.
func (o Obstacle) Remedy(bridge string) string {
	switch {
	case o.table == "firewalld":
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", bridge)
	case o.table == "filter" && o.chain == "FORWARD":
		tool := "iptables"
		if o.family == nftables.TableFamilyIPv6 {
			tool = "ip6tables"
		}
		return fmt.Sprintf("%[1]s -I FORWARD -i %[2]s -j ACCEPT && %[1]s -I FORWARD -o %[2]s -j ACCEPT (our own table goes on isolating)", tool, bridge)
	}
	return fmt.Sprintf("accept packets from and to %s in that chain", bridge)
}

// Obstacles lists chains of others, on the forward hook, whose policy is to drop. It reads
// only. Legacy iptables tables are
// not visible here.
func Obstacles() []Obstacle {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil // no nftables: the next change of our table says so
	}
	var out []Obstacle
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Type != nftables.ChainTypeFilter || ch.Table.Family == nftables.TableFamilyBridge {
			continue
		}
		if ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		out = append(out, Obstacle{
			Rule:   fmt.Sprintf("table %s %s, chain %s: policy drop", familyName(ch.Table.Family), ch.Table.Name, ch.Name),
			family: ch.Table.Family, table: ch.Table.Name, chain: ch.Name,
		})
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
	}
	return fmt.Sprintf("family %d", f)
}
