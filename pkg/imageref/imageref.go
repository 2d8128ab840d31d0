package imageref

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Hub is the registry of names that say none.
const Hub = "docker.io"

// official is where the Hub keeps names without a team.
const official = "library/"

// Name is a complete name.
type Name struct {
	Domain string // with a port, if it has one; "" where the first component can be none
	Path   string
	Tag    string // "" for none
	Digest string // "" for none
}

// maxName bounds domain and path together, in bytes.
const maxName = 255

var (
	errFormat = fmt.Errorf("invalid reference format: %w", errdefs.ErrInvalidArgument)
	errEmpty  = errors.New("repository name must have at least one component")
)

// Parse reads a name and completes it. Errors are of class ErrInvalidArgument.
func Parse(s string) (Name, error) {
	if isHex(s) && len(s) == 64 {
		return Name{}, fmt.Errorf("invalid repository name (%s), cannot specify 64-byte hexadecimal strings: %w", s, errdefs.ErrInvalidArgument)
	}
	domain, rest := splitDomain(s)
	remote, _, _ := strings.Cut(rest, ":")
	if strings.ToLower(remote) != remote {
		return Name{}, fmt.Errorf("invalid reference format: repository name (%s) must be lowercase: %w", remote, errdefs.ErrInvalidArgument)
	}
	rest, digest, hasDigest := strings.Cut(rest, "@")
	path, tag, hasTag := strings.Cut(rest, ":")
	if !validDomain(domain) { // then it may be the first component of a path without one
		domain, path = "", domain+"/"+path
	}
	switch {
	case s == "":
		return Name{}, fmt.Errorf("invalid reference format: %w: %w", errEmpty, errdefs.ErrInvalidArgument)
	case !validPath(path), hasTag && !validTag(tag), hasDigest && !validDigest(digest):
		return Name{}, errFormat
	case len(domain)+1+len(path) > maxName:
		return Name{}, fmt.Errorf("repository name must not be more than %d characters: %w", maxName, errdefs.ErrInvalidArgument)
	}
	return Name{domain, path, tag, digest}, nil
}

// splitDomain cuts the registry off, and completes what belongs to the Hub.
func splitDomain(s string) (domain, rest string) {
	domain, rest, ok := strings.Cut(s, "/")
	if !ok || !strings.ContainsAny(domain, ".:") && domain != "localhost" && strings.ToLower(domain) == domain {
		domain, rest = Hub, s
	}
	if domain == "index.docker.io" {
		domain = Hub
	}
	if domain == Hub && !strings.Contains(rest, "/") {
		rest = official + rest
	}
	return domain, rest
}

// Bare reports whether the name has neither tag nor digest.
func (n Name) Bare() bool { return n.Tag == "" && n.Digest == "" }

// Tagged returns the name with the tag that is meant if none is said.
func (n Name) Tagged() Name {
	if n.Bare() {
		n.Tag = "latest"
	}
	return n
}

// Familiar is the name as people write it, without tag and digest.
func (n Name) Familiar() string {
	if n.Domain != Hub {
		return n.name()
	}
	if rest, ok := strings.CutPrefix(n.Path, official); ok && !strings.Contains(rest, "/") {
		return rest
	}
	return n.Path
}

// FamiliarString is Familiar with tag and digest.
func (n Name) FamiliarString() string { return n.Familiar() + n.suffix() }

// String is the complete name.
func (n Name) String() string { return n.name() + n.suffix() }

func (n Name) name() string {
	if n.Domain == "" {
		return n.Path
	}
	return n.Domain + "/" + n.Path
}

func (n Name) suffix() string {
	out := ""
	if n.Tag != "" {
		out += ":" + n.Tag
	}
	if n.Digest != "" {
		out += "@" + n.Digest
	}
	return out
}

func all(s string, ok func(c byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
func isAlnum(c byte) bool { return isLower(c) || c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isHexDigit(c byte) bool {
	return isDigit(c) || c >= 'a' && c <= 'f'
}
func isHex(s string) bool { return s != "" && all(s, isHexDigit) }

// validDomain: labels of letters, digits and inner hyphens, or an IPv6 address in brackets;
// then perhaps a port.
func validDomain(s string) bool {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 2 || !all(s[1:end], func(c byte) bool { return isHexDigit(c) || c >= 'A' && c <= 'F' || c == ':' }) {
			return false
		}
		return s[end+1:] == "" || strings.HasPrefix(s[end+1:], ":") && len(s) > end+2 && all(s[end+2:], isDigit)
	}
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort && (port == "" || !all(port, isDigit)) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || !isAlnum(label[0]) || !isAlnum(label[len(label)-1]) || !all(label, func(c byte) bool { return isAlnum(c) || c == '-' }) {
			return false
		}
	}
	return true
}

// validPath: components of small letters and digits, between which may be one dot, one or two
// underscores, or any number of hyphens.
func validPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if !validComponent(part) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	if s == "" || !isLower(s[0]) || !isLower(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isLower(s[i]) {
			i++
			continue
		}
		end := i
		for end < len(s) && !isLower(s[end]) {
			end++
		}
		switch sep := s[i:end]; {
		case sep == ".", sep == "_", sep == "__", strings.Trim(sep, "-") == "":
		default:
			return false
		}
		i = end
	}
	return true
}

func validTag(s string) bool {
	word := func(c byte) bool { return isAlnum(c) || c == '_' }
	return s != "" && len(s) <= 128 && word(s[0]) && all(s, func(c byte) bool { return word(c) || c == '.' || c == '-' })
}

// digestSizes are the algorithms that are known, and how many digits they have.
var digestSizes = map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}

func validDigest(s string) bool {
	algorithm, hex, _ := strings.Cut(s, ":")
	return digestSizes[algorithm] == len(hex) && isHex(hex)
}
