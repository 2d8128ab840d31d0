package cliapp

import "strings"

// nearest returns the visible commands that a user who typed name may have meant: one typo away
// for each three letters, or begun by it.
func nearest(commands []Command, name string) []string {
	var out []string
	name = strings.ToLower(name)
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		if distance(name, c.Name) <= len(c.Name)/3 || strings.HasPrefix(c.Name, name) {
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
