package firewall

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// Difference is an element of a map of published ports that the kernel has and nobody
// wants, or the other way round.
type Difference struct {
	Set     string
	Element string // in the words of nft(8) where they are known, else hexadecimal
	Missing bool
}

// Differences compares the maps of published ports in the kernel with what is wanted. A
// Restore makes them equal.
func (f *Firewall) Differences() ([]Difference, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := nftables.New() // one of its own: the lasting one only writes
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: f.cfg.Table}
	var out []Difference
	for _, s := range sets {
		if !strings.HasPrefix(s.name, "pub") && !strings.HasPrefix(s.name, "open") {
			continue
		}
		elements, err := conn.GetSetElements(&nftables.Set{Table: table, Name: s.name, IsMap: s.data != nil})
		if err != nil {
			return nil, fmt.Errorf("list elements of %q: %w", s.name, err)
		}
		out = append(out, f.compareLocked(s.name, elements)...)
	}
	return out, nil
}

// compareLocked compares one map. Preconditions: mu is held.
func (f *Firewall) compareLocked(set string, kernel []nftables.SetElement) []Difference {
	wanted := map[string]string{}
	for e := range f.wanted {
		if e.set == set {
			wanted[e.key] = e.text
		}
	}
	var out []Difference
	for _, e := range kernel {
		if _, ok := wanted[string(e.Key)]; !ok {
			out = append(out, Difference{Set: set, Element: fmt.Sprintf("%x", e.Key)})
		}
		delete(wanted, string(e.Key))
	}
	for _, text := range wanted {
		out = append(out, Difference{Set: set, Element: text, Missing: true})
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.Element, b.Element) })
	return out
}
