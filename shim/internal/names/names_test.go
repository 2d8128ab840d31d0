package names

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"strata/pkg/linux/netns"
	"strata/pkg/linux/rtnl"
	"strata/pkg/names"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// members are two containers on a network; "api" is a name of both.
var members = names.Network{
	Name: "app", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00::/64")},
	Hosts: []names.Host{
		{ID: strings.Repeat("a", 64), Names: []string{"a", "api"}, Addrs: []netip.Addr{addr("10.1.0.2"), addr("fd00::2")}, Ports: []names.Service{{Proto: "tcp", Port: 80}}},
		{ID: strings.Repeat("b", 64), Names: []string{"b", "api"}, Addrs: []netip.Addr{addr("10.1.0.3")}},
	},
}

// newServer returns a server without sockets for members.
func newServer(t testing.TB, upstreams ...netip.AddrPort) *Server {
	t.Helper()
	store, err := names.Open(writeFiles(t, members, names.File{Upstreams: upstreams}))
	if err != nil {
		t.Fatal(err)
	}
	return &Server{store: store, forward: newForwarder()}
}

func writeFiles(t testing.TB, n names.Network, f names.File) string {
	t.Helper()
	dir := t.TempDir()
	f.Networks = []names.Membership{{Path: filepath.Join(dir, "net")}}
	if err := names.Write(filepath.Join(dir, "net"), n); err != nil {
		t.Fatal(err)
	}
	if err := names.Write(filepath.Join(dir, "file"), f); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "file")
}

// ask packs a query; with payload above zero it speaks EDNS.
func ask(t testing.TB, id uint16, name string, kind dnsmessage.Type, payload int) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	err := b.StartQuestions()
	if err == nil {
		err = b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET})
	}
	if err == nil && payload > 0 {
		var h dnsmessage.ResourceHeader
		err = b.StartAdditionals()
		if err == nil {
			err = h.SetEDNS0(payload, 0, true)
		}
		if err == nil {
			err = b.OPTResource(h, dnsmessage.OPTResource{})
		}
	}
	msg, ferr := b.Finish()
	if err != nil || ferr != nil {
		t.Fatal(err, ferr)
	}
	return msg
}

// told is a reply as text: code, flags and records.
func told(t testing.TB, reply []byte) string {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil {
		t.Fatalf("reply % x: %v", reply, err)
	}
	out := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
	if m.Truncated {
		out = append(out, "cut")
	}
	for _, r := range slices.Concat(m.Answers, m.Additionals) {
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(body.AAAA).String())
		case *dnsmessage.PTRResource:
			out = append(out, body.PTR.String())
		case *dnsmessage.SRVResource:
			out = append(out, fmt.Sprintf("%s:%d", body.Target, body.Port))
		case *dnsmessage.OPTResource:
			out = append(out, fmt.Sprintf("edns:%d", r.Header.Class))
		}
	}
	return strings.Join(out, " ")
}

func TestLocalAnswers(t *testing.T) {
	s := newServer(t)
	reverse6 := "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."
	for _, tt := range []struct {
		name    string
		kind    dnsmessage.Type
		payload int
		want    string // "": somebody else has to be asked
	}{
		{"a.", dnsmessage.TypeA, 0, "Success 10.1.0.2"},
		{"A.APP.", dnsmessage.TypeA, 4096, "Success 10.1.0.2 edns:1232"},
		{"a.", dnsmessage.TypeAAAA, 0, "Success fd00::2"},
		{"b.", dnsmessage.TypeAAAA, 0, "Success"},
		{"b.", dnsmessage.TypeMX, 0, "Success"},
		{"bbbbbbbbbbbb.", dnsmessage.TypeA, 0, "Success 10.1.0.3"},
		{strings.Repeat("b", 63) + ".", dnsmessage.TypeA, 0, "Success 10.1.0.3"},
		{"a.", dnsmessage.TypeALL, 0, "Success 10.1.0.2 fd00::2"},
		{"3.0.1.10.in-addr.arpa.", dnsmessage.TypePTR, 0, "Success b.app."},
		{"3.0.1.10.in-addr.arpa.", dnsmessage.TypeA, 0, "Success"},
		{"9.0.1.10.IN-ADDR.ARPA.", dnsmessage.TypePTR, 0, "NameError"},
		{reverse6, dnsmessage.TypePTR, 0, "Success a.app."},
		{"_80._tcp.a.", dnsmessage.TypeSRV, 0, "Success a.:80 10.1.0.2 fd00::2"},
		{"_80._TCP.api.app.", dnsmessage.TypeSRV, 0, "Success a.:80 10.1.0.2 fd00::2"},
		{"_81._tcp.a.", dnsmessage.TypeSRV, 0, "NameError"},
		{"_80._tcp.nobody.", dnsmessage.TypeSRV, 0, ""},
		{"_http._tcp.a.", dnsmessage.TypeSRV, 0, ""},
		{"9.9.1.10.in-addr.arpa.", dnsmessage.TypePTR, 0, ""},
		{"1.10.in-addr.arpa.", dnsmessage.TypePTR, 0, ""},
		{"nobody.", dnsmessage.TypeA, 0, ""},
		{"a.example.org.", dnsmessage.TypeA, 0, ""},
		{".", dnsmessage.TypeNS, 0, ""},
	} {
		forward, reply := s.local(ask(t, 7, tt.name, tt.kind, tt.payload), true)
		if tt.want == "" {
			if forward == nil || reply != nil {
				t.Errorf("%s %s: answered % x, want it to be forwarded", tt.name, tt.kind, reply)
			}
			continue
		}
		if forward != nil || reply == nil {
			t.Errorf("%s %s: not answered", tt.name, tt.kind)
			continue
		}
		if got := told(t, reply); got != tt.want {
			t.Errorf("%s %s: %q, want %q", tt.name, tt.kind, got, tt.want)
		}
		if binary.BigEndian.Uint16(reply) != 7 || !bytes.Equal(reply[headerLen:headerLen+len(tt.name)], ask(t, 7, tt.name, tt.kind, 0)[headerLen:headerLen+len(tt.name)]) {
			t.Errorf("%s: id or spelling of the question is not the client's", tt.name)
		}
	}
}

func TestNamesOfSeveralGoRound(t *testing.T) {
	s := newServer(t)
	counts := map[string]int{}
	for range 100 {
		// A client asks for both kinds each time; that must not keep the order from changing.
		_, _ = s.local(ask(t, 1, "api.", dnsmessage.TypeAAAA, 0), true)
		_, reply := s.local(ask(t, 1, "api.", dnsmessage.TypeA, 0), true)
		counts[told(t, reply)]++
	}
	if counts["Success 10.1.0.2 10.1.0.3"] != 50 || counts["Success 10.1.0.3 10.1.0.2"] != 50 {
		t.Errorf("orders of 100 answers: %v", counts)
	}
}

func TestLongAnswersAreCutForUDPOnly(t *testing.T) {
	n := names.Network{Name: "n"}
	for i := range 100 {
		n.Hosts = append(n.Hosts, names.Host{Names: []string{"all"}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})}})
	}
	store, err := names.Open(writeFiles(t, n, names.File{}))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{store: store, forward: newForwarder()}
	for _, tt := range []struct {
		payload int
		udp     bool
		want    string
	}{{0, true, "Success cut"}, {700, true, "Success cut edns:1232"}, {65535, true, "Success cut edns:1232"}, {0, false, "Success 10.1.0."}} {
		_, reply := s.local(ask(t, 1, "all.", dnsmessage.TypeA, tt.payload), tt.udp)
		if got := told(t, reply); !strings.HasPrefix(got, tt.want) || tt.udp && got != tt.want {
			t.Errorf("payload %d, udp %v: %.60q, want %q", tt.payload, tt.udp, got, tt.want)
		}
	}
}

func TestBadQueriesAreRefusedOrDropped(t *testing.T) {
	s := newServer(t)
	good := ask(t, 7, "a.", dnsmessage.TypeA, 1232)
	change := func(edit func(b []byte) []byte) []byte { return edit(slices.Clone(good)) }
	loop := append(binary.BigEndian.AppendUint16(nil, 7), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1)
	for name, tt := range map[string]struct {
		query []byte
		want  string // "" for nothing
	}{
		"empty":             {nil, ""},
		"cut header":        {good[:11], ""},
		"an answer":         {change(func(b []byte) []byte { b[2] |= 0x80; return b }), ""},
		"cut question":      {good[:14], "FormatError"},
		"cut option":        {good[:len(good)-3], "FormatError"},
		"no question":       {change(func(b []byte) []byte { b[5] = 0; return b }), "FormatError"},
		"two questions":     {change(func(b []byte) []byte { b[5] = 2; return b }), "FormatError"},
		"notify":            {change(func(b []byte) []byte { b[2] |= 4 << 3; return b }), "NotImplemented"},
		"EDNS version 1":    {change(func(b []byte) []byte { b[len(b)-5] = 1; return b }), "Success edns:1232"},
		"pointer to itself": {loop, "FormatError"},
		"64 KB of pointers": {append(slices.Clone(loop), bytes.Repeat([]byte{0xc0, 12}, 32000)...), "FormatError"},
	} {
		forward, reply := s.local(tt.query, true)
		if forward != nil {
			t.Errorf("%s: would be forwarded", name)
		}
		got := ""
		if reply != nil {
			got = told(t, reply)
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// upstream is a DNS server on loopback that answers as reply says, at UDP and TCP.
type upstream struct {
	at    netip.AddrPort
	asked atomic.Int64
}

// listenBoth listens on one port with UDP and TCP; somebody may have the TCP port of a UDP
// port that was free.
func listenBoth(t *testing.T) (*net.UDPConn, *net.TCPListener) {
	t.Helper()
	for try := 1; ; try++ {
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			t.Fatal(err)
		}
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(udp.LocalAddr().(*net.UDPAddr).AddrPort()))
		if err == nil {
			return udp, tcp
		}
		_ = udp.Close() // it was not used
		if try == 10 {
			t.Fatal(err)
		}
	}
}

func newUpstream(t *testing.T, reply func(query []byte, tcp bool) []byte) *upstream {
	t.Helper()
	udp, tcp := listenBoth(t)
	u := &upstream{at: udp.LocalAddr().(*net.UDPAddr).AddrPort()}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			u.asked.Add(1)
			if out := reply(slices.Clone(buf[:n]), false); out != nil {
				_, _ = udp.WriteToUDPAddrPort(out, from)
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			if q, err := readTCP(c, maxMessage); err == nil {
				_ = writeTCP(c, reply(q, true))
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _, _ = udp.Close(), tcp.Close(); wg.Wait() })
	return u
}

// answer makes a reply with n addresses from 192.0.2.first on, or an SOA if n is 0.
func answer(t testing.TB, query []byte, rcode dnsmessage.RCode, first byte, n int) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		t.Error(err)
	}
	m.Response, m.RCode, m.Additionals = true, rcode, nil
	h := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 30}
	for i := range n {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, first + byte(i)}}})
	}
	if n == 0 && (rcode == dnsmessage.RCodeNameError || rcode == dnsmessage.RCodeSuccess) {
		root := dnsmessage.MustNewName(".")
		m.Authorities = append(m.Authorities, dnsmessage.Resource{Header: h, Body: &dnsmessage.SOAResource{NS: root, MBox: root, MinTTL: 10}})
	}
	out, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return out
}

// look asks the server's upstreams for A of name.
func look(t *testing.T, s *Server, name string) string {
	t.Helper()
	q, reply := s.local(ask(t, 99, name, dnsmessage.TypeA, 1232), true)
	if q == nil {
		return told(t, reply)
	}
	reply = s.forward.ask(t.Context(), q, s.store.View().Upstreams)
	if binary.BigEndian.Uint16(reply) != 99 {
		t.Errorf("id of the reply is %d, want the client's", binary.BigEndian.Uint16(reply))
	}
	return told(t, reply)
}

func TestTheFirstGoodUpstreamWins(t *testing.T) {
	fixed := func(rcode dnsmessage.RCode, first byte, n int) *upstream {
		return newUpstream(t, func(q []byte, _ bool) []byte { return answer(t, q, rcode, first, n) })
	}
	dead := newUpstream(t, func([]byte, bool) []byte { return nil })
	failing, nothing, known := fixed(dnsmessage.RCodeServerFailure, 0, 0), fixed(dnsmessage.RCodeNameError, 0, 0), fixed(dnsmessage.RCodeSuccess, 1, 1)
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	for name, tt := range map[string]struct {
		upstreams []netip.AddrPort
		want      string
	}{
		"no upstream":                 {nil, "ServerFailure edns:1232"},
		"one that fails":              {[]netip.AddrPort{failing.at}, "ServerFailure"},
		"nobody listens":              {[]netip.AddrPort{closed}, "ServerFailure edns:1232"},
		"a dead one, a known":         {[]netip.AddrPort{dead.at, known.at}, "Success 192.0.2.1"},
		"a failing one, a known":      {[]netip.AddrPort{failing.at, known.at}, "Success 192.0.2.1"},
		"knows nothing, knows":        {[]netip.AddrPort{nothing.at, dead.at}, "NameError"},
		"a dead one, knows nothing":   {[]netip.AddrPort{dead.at, nothing.at}, "NameError"},
		"nobody, failing and nothing": {[]netip.AddrPort{closed, failing.at, nothing.at}, "NameError"},
	} {
		s := newServer(t, tt.upstreams...)
		start := time.Now()
		if got := look(t, s, "www.example."); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%s: took %v", name, d)
		}
	}
}

func TestAnUpstreamThatAnswersSomethingElseIsNotBelieved(t *testing.T) {
	liar := newUpstream(t, func(q []byte, _ bool) []byte {
		forged := answer(t, q, dnsmessage.RCodeSuccess, 66, 1)
		if bytes.Contains(q, []byte("wrongid")) {
			forged[0]++
		} else {
			forged[headerLen+1]++ // another name
		}
		return forged
	})
	s := newServer(t, liar.at)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, name := range []string{"wrongid.example.", "wrongname.example."} {
		q, _ := s.local(ask(t, 1, name, dnsmessage.TypeA, 0), true)
		if got := told(t, s.forward.ask(ctx, q, []netip.AddrPort{liar.at})); got != "ServerFailure" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestAnswersAreKeptAsLongAsTheySay(t *testing.T) {
	u := newUpstream(t, func(q []byte, _ bool) []byte { return answer(t, q, dnsmessage.RCodeSuccess, 1, 1) })
	s := newServer(t, u.at)
	for _, name := range []string{"www.example.", "WWW.example.", "www.example."} {
		if got := look(t, s, name); got != "Success 192.0.2.1" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if n := u.asked.Load(); n != 1 {
		t.Errorf("upstream was asked %d times, want once", n)
	}
	raw := ask(t, 5, "wWw.eXample.", dnsmessage.TypeA, 1232)
	q, _ := s.local(raw, true)
	key, _ := q.key()
	reply := s.forward.cache.get(key, q, time.Now().Add(20*time.Second))
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil || m.Answers[0].Header.TTL > 10 || m.Questions[0].Name.String() != "wWw.eXample." {
		t.Errorf("after 20 s of 30: %+v, %v", m, err)
	}
	if reply := s.forward.cache.get(key, q, time.Now().Add(31*time.Second)); reply != nil {
		t.Error("answered after its time")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	for i := range 3 * maxEntries {
		raw := ask(t, 1, fmt.Sprintf("n%d.example.", i), dnsmessage.TypeA, 0)
		q, _, _ := parse(raw, true)
		key, _ := q.key()
		c.put(key, q, answer(t, raw, dnsmessage.RCodeSuccess, 1, 1+i%40), time.Now())
	}
	size := 0
	for _, e := range c.entries {
		size += len(e.reply)
	}
	if len(c.entries) > maxEntries || size != c.size || size > maxCached || len(c.entries) < 100 {
		t.Errorf("%d entries of %d bytes, counted %d", len(c.entries), size, c.size)
	}
}

func TestUpstreamsCutAnswerIsFetchedByTCP(t *testing.T) {
	u := newUpstream(t, func(q []byte, tcp bool) []byte {
		if tcp {
			return answer(t, q, dnsmessage.RCodeSuccess, 0, 200)
		}
		cut := answer(t, q, dnsmessage.RCodeSuccess, 0, 0)
		cut[2] |= flagTruncated
		return cut
	})
	s := newServer(t, u.at)
	if got := look(t, s, "big.example."); got != "Success cut edns:1232" {
		t.Errorf("UDP client: %q, want to be sent to TCP", got)
	}
	q, _ := s.local(ask(t, 1, "big.example.", dnsmessage.TypeA, 1232), false)
	if got := told(t, s.forward.ask(t.Context(), q, []netip.AddrPort{u.at})); strings.Count(got, "192.0.2.") != 200 {
		t.Errorf("TCP client: %.60q", got)
	}
	if n := u.asked.Load(); n != 1 {
		t.Errorf("upstream was asked %d times by UDP, want once", n)
	}
}

// bundle makes a bundle whose container joins a new netns, and a server's files.
func bundle(t *testing.T, f names.File) (dir, ns string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	dir = t.TempDir()
	ns = filepath.Join(dir, "netns")
	if err := netns.Create(ns, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(ns); err != nil {
			t.Error(err)
		}
	})
	spec := fmt.Sprintf(`{"annotations":{%q:%q},"linux":{"namespaces":[{"type":"network","path":%q}]}}`, names.Annotation, writeFiles(t, members, f), ns)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, ns
}

func TestServerListensInTheContainersNetns(t *testing.T) {
	dir, ns := bundle(t, names.File{Listen: netip.AddrPortFrom(names.Addr, names.Port)})
	if err := loopbackUp(ns); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the address is free after Close
		s, err := Start(t.Context(), dir)
		if err != nil || s == nil {
			t.Fatal(s, err)
		}
		for _, network := range []string{"udp", "tcp"} {
			var c net.Conn
			err := netns.DoPath(ns, func() (err error) { c, err = net.Dial(network, "127.0.0.11:53"); return err })
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			var reply []byte
			if network == "tcp" {
				for range 2 { // on one connection
					if err := writeTCP(c, ask(t, 3, "a.", dnsmessage.TypeA, 0)); err != nil {
						t.Fatal(err)
					}
					reply, err = readTCP(c, maxMessage)
				}
			} else {
				buf := make([]byte, maxMessage)
				_, _ = c.Write(bytes.Repeat([]byte{0xc0}, 60000))
				_, _ = c.Write(ask(t, 3, "a.", dnsmessage.TypeA, 0))
				var n int
				n, err = c.Read(buf)
				reply = buf[:n]
			}
			if err != nil {
				t.Fatal(network, err)
			}
			if got := told(t, reply); got != "Success 10.1.0.2" {
				t.Errorf("%s: %q", network, got)
			}
			_ = c.Close()
		}
		s.Close()
	}
	if c, err := net.Dial("tcp", "127.0.0.11:53"); err == nil {
		t.Errorf("somebody listens on the host: %v", c.Close())
	}
}

func TestThousandsOfQueriesAreBounded(t *testing.T) {
	silent := newUpstream(t, func([]byte, bool) []byte { return nil })
	dir, ns := bundle(t, names.File{Listen: netip.AddrPortFrom(names.Addr, names.Port), Upstreams: []netip.AddrPort{silent.at}})
	if err := loopbackUp(ns); err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var c net.Conn
	if err := netns.DoPath(ns, func() (err error) { c, err = net.Dial("udp", "127.0.0.11:53"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, maxMessage)
	failed := false
	for i := 0; i < 4*maxPending && !failed; i++ {
		_, _ = c.Write(ask(t, uint16(i), fmt.Sprintf("n%d.example.", i), dnsmessage.TypeA, 0))
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond / 4))
		if n, err := c.Read(buf); err == nil && told(t, buf[:n]) == "ServerFailure" {
			failed = true
		}
	}
	if !failed || len(s.pending) > maxPending {
		t.Errorf("no query was refused; %d are under way", len(s.pending))
	}
	// Our own names are answered all the same.
	for {
		_, _ = c.Write(ask(t, 9999, "b.", dnsmessage.TypeA, 0))
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if binary.BigEndian.Uint16(buf) == 9999 {
			if got := told(t, buf[:n]); got != "Success 10.1.0.3" {
				t.Errorf("b: %q", got)
			}
			break
		}
	}
}

func TestABundleWithoutNamesCostsNothing(t *testing.T) {
	dir := t.TempDir()
	for spec, class := range map[string]bool{
		`{"annotations":{"x":"y"}}`:                                  true,
		`{"annotations":{"strata.names":"/x"}}`:                      false, // no netns
		`{"annotations":{"strata.names":"/x"},"linux":{"namespaces"`: false,
		`{"annotations":{"strata.names":"/nowhere/x"},"linux":{"namespaces":[{"type":"network","path":"/x"}]}}`: true,
	} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Start(t.Context(), dir)
		if s != nil || (err == nil) != class {
			t.Errorf("Start with %s = %v, %v", spec, s, err)
		}
		s.Close()
	}
}

func FuzzQuery(f *testing.F) {
	s := newServer(f)
	f.Add(ask(f, 1, "api.", dnsmessage.TypeA, 1232), true)
	f.Add(ask(f, 1, "_80._tcp.a.", dnsmessage.TypeSRV, 0), false)
	f.Add(ask(f, 1, "3.0.1.10.in-addr.arpa.", dnsmessage.TypePTR, 0), true)
	f.Add(ask(f, 1, "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, 512), true)
	f.Add(answer(f, ask(f, 1, "x.", dnsmessage.TypeA, 0), dnsmessage.RCodeSuccess, 1, 3), true)
	f.Add(answer(f, ask(f, 1, "x.", dnsmessage.TypeA, 0), dnsmessage.RCodeNameError, 1, 0), true)
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}, true)
	f.Fuzz(func(t *testing.T, raw []byte, udp bool) {
		q, reply := s.local(raw, udp)
		if q != nil && reply != nil {
			t.Fatal("answered and forwarded")
		}
		if reply != nil {
			var m dnsmessage.Message
			if err := m.Unpack(reply); err != nil || !m.Response || m.ID != binary.BigEndian.Uint16(raw) || udp && len(reply) > ownPayload {
				t.Fatalf("reply % x: %v", reply, err)
			}
		}
		if q == nil {
			q, _, _ = parse(ask(t, 1, "x.", dnsmessage.TypeA, 0), true)
		}
		// The same bytes as an upstream might say them.
		c := newCache()
		if o := q.check(raw, raw); o.reply != nil && len(raw) >= headerLen {
			key, _ := q.key()
			c.put(key, q, raw, time.Now())
			_ = c.get(key, q, time.Now())
			_ = q.fit(raw)
		}
		if ttl, ttls, ok := lifetime(raw); ok && (ttl > maxTTL || slices.ContainsFunc(ttls, func(at int) bool { return at+4 > len(raw) })) {
			t.Fatalf("lifetime = %d, %v", ttl, ttls)
		}
	})
}

func BenchmarkLocal(b *testing.B) {
	s := newServer(b)
	q := ask(b, 1, "api.", dnsmessage.TypeA, 1232)
	for b.Loop() {
		_, _ = s.local(q, true)
	}
}

// loopbackUp sets lo up, as engined does when it makes a netns.
func loopbackUp(ns string) error {
	return netns.DoPath(ns, func() error {
		rt, err := rtnl.Dial()
		if err != nil {
			return err
		}
		return errors.Join(rt.Do(rtnl.LinkUp(1)), rt.Close())
	})
}
