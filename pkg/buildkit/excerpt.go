package buildkit

import (
	"fmt"
	"strings"
)

// around is how many lines are shown before and behind what is meant.
const around = 2

// rule frames an excerpt.
const rule = "--------------------\n"

func writeExcerpt(b *strings.Builder, name string, lines []string, first, last int) {
	fmt.Fprintf(b, "%s:%d\n%s", name, first, rule)
	for n := max(1, first-around); n <= min(len(lines), last+around); n++ {
		mark := "   "
		if n >= first && n <= last {
			mark = ">>>"
		}
		fmt.Fprintf(b, "%4d | %s %s\n", n, mark, lines[n-1])
	}
	b.WriteString(rule)
}
