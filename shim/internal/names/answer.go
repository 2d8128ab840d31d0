package names

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"strata/pkg/names"
)

const (
	// ttl is that of our names, in seconds: short, because containers come and go.
	ttl = 5
	// ownPayload is the largest UDP message that we say we take and, if the client takes it,
	// send (RFC 9715: what fits everywhere without fragments; loopback carries it anyhow).
	ownPayload = 1232
	// plainPayload is the largest UDP answer to who does not speak EDNS (RFC 1035, 4.2.1).
	plainPayload = 512
	maxMessage   = 65535
	// badVersion is the extended code BADVERS without its lower four bits (RFC 6891, 6.1.3).
	badVersion = 1

	rcodeServFail = dnsmessage.RCodeServerFailure
)

// query is a query that was understood.
type query struct {
	raw      []byte
	header   dnsmessage.Header
	question dnsmessage.Question
	limit    int  // bytes that the answer may have
	udp      bool // came so
	edns     bool
	do       bool // wants DNSSEC records
	options  bool // has EDNS options, which an answer may depend on
	version  uint8
}

// own makes q independent of the buffer that it was read into.
func (q *query) own() { q.raw = append([]byte(nil), q.raw...) }

// parse reads a query. With rcode other than success it must be answered with that; with ok
// false not at all.
func parse(raw []byte, udp bool) (q *query, rcode dnsmessage.RCode, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil || h.Response {
		return nil, 0, false
	}
	q = &query{raw: raw, header: h, limit: maxMessage, udp: udp}
	if udp {
		q.limit = plainPayload
	}
	if h.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented, true
	}
	if binary.BigEndian.Uint16(raw[4:]) != 1 {
		return q, dnsmessage.RCodeFormatError, true
	}
	if q.question, err = p.Question(); err != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	for {
		rh, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return q, dnsmessage.RCodeSuccess, true
		}
		if err != nil || rh.Type == dnsmessage.TypeOPT && q.edns {
			return q, dnsmessage.RCodeFormatError, true
		}
		if rh.Type == dnsmessage.TypeOPT {
			q.edns, q.do, q.options = true, rh.DNSSECAllowed(), rh.Length > 0
			q.version = uint8(rh.TTL >> 16)
			if udp {
				q.limit = min(max(int(rh.Class), plainPayload), ownPayload)
			}
		}
		if p.SkipAdditional() != nil {
			return q, dnsmessage.RCodeFormatError, true
		}
	}
}

// local answers what can be answered at once. If somebody else has to be asked, it returns
// the query instead; both are nil for what is not worth an answer.
func (s *Server) local(raw []byte, udp bool) (forward *query, reply []byte) {
	q, rcode, ok := parse(raw, udp)
	switch {
	case !ok:
		return nil, nil
	case rcode != dnsmessage.RCodeSuccess:
		return nil, q.failure(rcode)
	case q.version != 0:
		return nil, q.reply(dnsmessage.RCodeSuccess, nil, badVersion)
	}
	view := s.store.View()
	if q.question.Class != dnsmessage.ClassINET {
		return q, nil
	}
	name := q.question.Name.String()
	if a, isReverse := parseReverse(name); isReverse {
		full, ours := view.Reverse(a)
		if !ours {
			return q, nil
		}
		return nil, q.answerReverse(full)
	}
	if port, proto, of, isService := parseService(name); isService {
		if hosts := view.Lookup(of); hosts != nil {
			return nil, q.answerService(hosts, port, proto, of)
		}
		return q, nil
	}
	hosts := view.Lookup(name)
	if hosts == nil {
		return q, nil
	}
	return nil, q.answerHosts(hosts, s.nextTurn(q.question.Type))
}

// nextTurn counts the queries of a type: clients ask for A and AAAA in turn, and each is to
// go round.
func (s *Server) nextTurn(t dnsmessage.Type) int {
	if t == dnsmessage.TypeAAAA {
		return int(s.turn6.Add(1) & 0x7fffffff)
	}
	return int(s.turn4.Add(1) & 0x7fffffff)
}

// resource is a record of an answer.
type resource struct {
	name dnsmessage.Name
	body dnsmessage.ResourceBody
	more bool // belongs into the additional section
}

// answerHosts answers for the name of hosts. Addresses are turned round with each query.
func (q *query) answerHosts(hosts []*names.Host, turn int) []byte {
	var out []resource
	for _, a := range addresses(hosts) {
		switch t := q.question.Type; {
		case a.Is4() && (t == dnsmessage.TypeA || t == dnsmessage.TypeALL):
			out = append(out, resource{name: q.question.Name, body: &dnsmessage.AResource{A: a.As4()}})
		case !a.Is4() && (t == dnsmessage.TypeAAAA || t == dnsmessage.TypeALL):
			out = append(out, resource{name: q.question.Name, body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	if n := len(out); n > 1 {
		turn %= n
		out = append(out[turn:n:n], out[:turn]...)
	}
	return q.reply(dnsmessage.RCodeSuccess, out, 0) // without records: the name exists, the type does not
}

// addresses returns the addresses of hosts, each once.
func addresses(hosts []*names.Host) []netip.Addr {
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, h := range hosts {
		for _, a := range h.Addrs {
			if a = a.Unmap(); !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
		}
	}
	return out
}

// answerReverse answers for an address of our networks.
func (q *query) answerReverse(full string) []byte {
	if full == "" {
		return q.failure(dnsmessage.RCodeNameError)
	}
	target, err := dnsmessage.NewName(full)
	if err != nil {
		return q.failure(rcodeServFail)
	}
	if q.question.Type != dnsmessage.TypePTR && q.question.Type != dnsmessage.TypeALL {
		return q.reply(dnsmessage.RCodeSuccess, nil, 0)
	}
	return q.reply(dnsmessage.RCodeSuccess, []resource{{name: q.question.Name, body: &dnsmessage.PTRResource{PTR: target}}}, 0)
}

// answerService answers for _PORT._PROTO.of.
func (q *query) answerService(hosts []*names.Host, port uint16, proto, of string) []byte {
	var out, more []resource
	for _, h := range hosts {
		if !serves(h, port, proto) {
			continue
		}
		// The name of the one container, not the one that was asked for: others may have that.
		target, err := dnsmessage.NewName(strings.TrimSuffix(h.Names[0], ".") + ".")
		if err != nil {
			continue
		}
		out = append(out, resource{name: q.question.Name, body: &dnsmessage.SRVResource{Port: port, Target: target}})
		for _, a := range h.Addrs {
			r := resource{name: target, more: true}
			if a = a.Unmap(); a.Is4() {
				r.body = &dnsmessage.AResource{A: a.As4()}
			} else {
				r.body = &dnsmessage.AAAAResource{AAAA: a.As16()}
			}
			more = append(more, r)
		}
	}
	switch {
	case len(out) == 0:
		return q.failure(dnsmessage.RCodeNameError)
	case q.question.Type != dnsmessage.TypeSRV && q.question.Type != dnsmessage.TypeALL:
		return q.reply(dnsmessage.RCodeSuccess, nil, 0)
	}
	return q.reply(dnsmessage.RCodeSuccess, append(out, more...), 0)
}

func serves(h *names.Host, port uint16, proto string) bool {
	for _, p := range h.Ports {
		if p.Port == port && strings.EqualFold(p.Proto, proto) && len(h.Names) > 0 {
			return true
		}
	}
	return false
}

// parseService reads "_80._tcp.web.": the port is a number, as containers' ports have no
// other names.
func parseService(name string) (port uint16, proto, of string, ok bool) {
	parts := strings.SplitN(name, ".", 3)
	if len(parts) < 3 || len(parts[0]) < 2 || len(parts[1]) < 2 || parts[0][0] != '_' || parts[1][0] != '_' {
		return 0, "", "", false
	}
	n, err := strconv.ParseUint(parts[0][1:], 10, 16)
	return uint16(n), parts[1][1:], parts[2], err == nil
}

// parseReverse reads "4.3.2.1.in-addr.arpa." and the like below ip6.arpa.
func parseReverse(name string) (netip.Addr, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		at := len(rest) - 1 - 2*i
		digit, err := strconv.ParseUint(rest[at:at+1], 16, 4)
		if err != nil || at > 0 && rest[at-1] != '.' {
			return netip.Addr{}, false
		}
		a[i/2] |= byte(digit) << (4 * (1 - i%2))
	}
	return netip.AddrFrom16(a), true
}

// failure is an answer without records.
func (q *query) failure(rcode dnsmessage.RCode) []byte { return q.reply(rcode, nil, 0) }

// reply builds an answer; one that is too long is cut and marked so, and the client asks
// again by TCP.
func (q *query) reply(rcode dnsmessage.RCode, records []resource, extended uint16) []byte {
	msg, err := q.build(rcode, records, extended, false)
	if err == nil && len(msg) <= q.limit {
		return msg
	}
	msg, err = q.build(rcode, nil, extended, true)
	if err != nil {
		return nil
	}
	return msg
}

func (q *query) build(rcode dnsmessage.RCode, records []resource, extended uint16, cut bool) ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 0, plainPayload), dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RecursionDesired: q.header.RecursionDesired,
		RecursionAvailable: true, RCode: rcode, Truncated: cut, CheckingDisabled: q.header.CheckingDisabled,
	})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if q.question.Name.Length > 0 {
		if err := b.Question(q.question); err != nil {
			return nil, err
		}
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	more := false
	for _, r := range records {
		if r.more && !more {
			more = true
			if err := b.StartAdditionals(); err != nil {
				return nil, err
			}
		}
		if err := add(&b, r); err != nil {
			return nil, err
		}
	}
	if q.edns {
		if !more {
			if err := b.StartAdditionals(); err != nil {
				return nil, err
			}
		}
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(ownPayload, dnsmessage.RCode(extended<<4), q.do); err != nil {
			return nil, err
		}
		if err := b.OPTResource(h, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

func add(b *dnsmessage.Builder, r resource) error {
	h := dnsmessage.ResourceHeader{Name: r.name, Class: dnsmessage.ClassINET, TTL: ttl}
	switch body := r.body.(type) {
	case *dnsmessage.AResource:
		return b.AResource(h, *body)
	case *dnsmessage.AAAAResource:
		return b.AAAAResource(h, *body)
	case *dnsmessage.PTRResource:
		return b.PTRResource(h, *body)
	case *dnsmessage.SRVResource:
		return b.SRVResource(h, *body)
	}
	return nil
}

// newID returns an id that cannot be guessed.
func newID() uint16 { return uint16(rand.Uint32()) } // ChaCha8, seeded by the kernel
