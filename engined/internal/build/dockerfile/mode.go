package dockerfile

import (
	"fmt"
	"strconv"
	"strings"
)

// Mode changes permissions, as chmod(1) does: "755" or "u=rwX,go=rX". nil changes nothing.
type Mode func(perm int64, dir bool) int64

// ParseMode reads --chmod.
func ParseMode(s string) (Mode, error) {
	if s == "" {
		return nil, nil
	}
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
		return func(int64, bool) int64 { return int64(n) }, nil
	}
	var steps []Mode
	for clause := range strings.SplitSeq(s, ",") {
		step, err := parseClause(clause)
		if err != nil {
			return nil, fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777, or symbolic as in u=rwX,go=rX", s)
		}
		steps = append(steps, step...)
	}
	return func(perm int64, dir bool) int64 {
		for _, step := range steps {
			perm = step(perm, dir)
		}
		return perm
	}, nil
}

// OctalMode are the permissions that an octal --chmod says; zero for any other.
func OctalMode(s string) int64 {
	n, err := strconv.ParseUint(s, 8, 12)
	if err != nil {
		return 0
	}
	return int64(n) & 0o777 //nolint:gosec // of twelve bits
}

// who are the bits that a letter stands for: permissions, and setuid, setgid or sticky.
var who = map[byte][2]int64{'u': {0o700, 0o4000}, 'g': {0o070, 0o2000}, 'o': {0o007, 0}, 'a': {0o777, 0o6000}}

// parseClause reads one clause of a symbolic mode: [ugoa]*([-+=][rwxXst]*|[ugo])+.
func parseClause(s string) ([]Mode, error) {
	bad := fmt.Errorf("clause %q", s)
	i := strings.IndexAny(s, "+-=")
	if i < 0 {
		return nil, bad
	}
	users := s[:i]
	if users == "" {
		users = "a"
	}
	var mask, special int64
	for j := range len(users) {
		bits, ok := who[users[j]]
		if !ok {
			return nil, bad
		}
		mask, special = mask|bits[0], special|bits[1]
	}
	var out []Mode
	for s = s[i:]; s != ""; {
		op, rest := s[0], s[1:]
		end := strings.IndexAny(rest, "+-=")
		if end < 0 {
			end = len(rest)
		}
		letters := rest[:end]
		s = rest[end:]
		if strings.Trim(letters, "rwxXst") != "" && !(len(letters) == 1 && strings.Contains("ugo", letters)) {
			return nil, bad
		}
		out = append(out, func(perm int64, dir bool) int64 {
			bits, extra := permissions(letters, perm, dir)
			bits, extra = bits&mask, extra&(special|0o1000)
			switch op {
			case '+':
				return perm | bits | extra
			case '-':
				return perm &^ (bits | extra)
			}
			return perm&^(mask|special) | bits | extra
		})
	}
	return out, nil
}

// permissions are what letters mean for everybody, with those beyond the nine bits apart.
func permissions(letters string, perm int64, dir bool) (bits, extra int64) {
	for _, l := range letters {
		switch l {
		case 'r':
			bits |= 0o444
		case 'w':
			bits |= 0o222
		case 'x':
			bits |= 0o111
		case 'X':
			if dir || perm&0o111 != 0 {
				bits |= 0o111
			}
		case 's':
			extra |= 0o6000
		case 't':
			extra |= 0o1000
		case 'u':
			bits |= (perm >> 6 & 7) * 0o111
		case 'g':
			bits |= (perm >> 3 & 7) * 0o111
		case 'o':
			bits |= (perm & 7) * 0o111
		}
	}
	return bits, extra
}
