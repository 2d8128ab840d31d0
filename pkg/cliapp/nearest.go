package cliapp

import "strings"

// nearest returns the visible commands that a user who typed name may have meant: at most two typos
// away, or begun by it.
func nearest(commands []Command, name string) []string {
	var out []string
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		d := distance(strings.ToLower(name), c.Name)
		if d <= 2 && d < len(c.Name) || strings.HasPrefix(c.Name, strings.ToLower(name)) {
			out = append(out, c.Name)
		}
	}
	return out
}

// distance is the number of single-letter changes between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
