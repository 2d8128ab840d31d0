package etcfiles

import (
	"bytes"
	"net/netip"
	"strings"
)

// Line is an address and its names.
type Line struct {
	Addr  netip.Addr
	Names []string
}

func (l Line) String() string { return l.Addr.String() + "\t" + strings.Join(l.Names, " ") + "\n" }

// preamble begins each hosts file.
const preamble = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// Hosts renders a hosts file.
func Hosts(lines []Line) []byte { return appendLines([]byte(preamble), lines) }

// HostsOver renders the hosts file of a container in the host's netns: the host's own, and
// lines.
func HostsOver(host []byte, lines []Line) []byte {
	out := bytes.Clone(host)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return appendLines(out, lines)
}

// Replace takes the lines of old out of a hosts file and adds those of fresh. Whatever else
// somebody wrote into it stays.
func Replace(file []byte, old, fresh []Line) []byte {
	gone := map[string]int{}
	for _, l := range old {
		gone[l.String()]++
	}
	var out []byte
	for line := range bytes.Lines(file) {
		if gone[string(line)] > 0 {
			gone[string(line)]--
			continue
		}
		out = append(out, line...)
	}
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return appendLines(out, fresh)
}

func appendLines(b []byte, lines []Line) []byte {
	for _, l := range lines {
		b = append(b, l.String()...)
	}
	return b
}
