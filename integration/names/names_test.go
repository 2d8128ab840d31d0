package names

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"strata/integration/harness"
)

// newStack starts a stack with busybox and an upstream.
func newStack(t *testing.T) *harness.Stack {
	s := harness.New(t, harness.EngineArgs("--dns", "127.0.0.1"))
	upstream(t, s)
	s.LoadBusybox()
	return s
}

// run starts a container that sleeps.
func run(s *harness.Stack, name string, args ...string) {
	s.OK("engine", append(append([]string{"run", "-d", "--name", name}, args...), "busybox:test", "sleep", "600")...)
}

// address returns a container's address on a network.
func address(s *harness.Stack, container, network, field string) string {
	return s.OK("engine", "inspect", "--format", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).%s}}", network, field), container)
}

// reverse returns the name that is asked for to learn an address's.
func reverse(t *testing.T, addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	var out string
	if a.Is4() {
		for _, b := range a.As4() {
			out = fmt.Sprintf("%d.%s", b, out)
		}
		return out + "in-addr.arpa"
	}
	for _, b := range a.As16() {
		out = fmt.Sprintf("%x.%x.%s", b&0xf, b>>4, out)
	}
	return out + "ip6.arpa"
}

func TestNamesOfPeers(t *testing.T) {
	s := newStack(t)
	s.OK("engine", "network", "create", "--ipv6", "app")
	run(s, "web", "--network", "app", "--network-alias", "www", "--expose", "80")
	run(s, "db", "--network", "app", "--link", "web:site")
	web4, web6, db4 := address(s, "web", "app", "IPAddress"), address(s, "web", "app", "GlobalIPv6Address"), address(s, "db", "app", "IPAddress")
	webID := s.OK("engine", "inspect", "--format", "{{.Id}}", "web")
	db, web := dial(t, netnsOf(s, "db"), "udp"), dial(t, netnsOf(s, "web"), "udp")

	t.Run("every name", func(t *testing.T) {
		for _, name := range []string{"web", "WEB", "web.app", "www", "www.app", webID[:12], webID[:63], "site"} {
			db.want(t, name, typeA, "Success "+web4)
			db.want(t, name, typeAAAA, "Success "+web6)
		}
		web.want(t, "db", typeA, "Success "+db4)
		web.want(t, "web", typeA, "Success "+web4)
		web.want(t, "site", typeA, "NameError") // another's link
		db.want(t, "web", typeSRV, "Success")
		db.want(t, "_80._tcp.web", typeSRV, "Success web.80")
		db.want(t, reverse(t, web4), typePTR, "Success web.app.")
		db.want(t, reverse(t, web6), typePTR, "Success web.app.")
		dial(t, netnsOf(s, "db"), "tcp").want(t, "web", typeA, "Success "+web4)
	})
	t.Run("by the C library and nslookup", func(t *testing.T) {
		s := s.For(t)
		conf := s.OK("engine", "exec", "db", "cat", "/etc/resolv.conf")
		if !strings.Contains(conf, "nameserver 127.0.0.11\n") || !strings.Contains(conf, "ndots:0") || strings.Count(conf, "nameserver") != 1 {
			t.Errorf("resolv.conf:\n%s", conf)
		}
		if hosts := s.OK("engine", "exec", "db", "cat", "/etc/hosts"); strings.Contains(hosts, web4) {
			t.Errorf("names of peers are in /etc/hosts too:\n%s", hosts)
		}
		if out := s.OK("engine", "exec", "db", "nslookup", "web"); !strings.Contains(out, web4) {
			t.Errorf("nslookup: %s", out)
		}
		if out := s.OK("engine", "exec", "db", "ping", "-4", "-c", "1", "-W", "2", "web"); !strings.Contains(out, web4) {
			t.Errorf("ping: %s", out)
		}
	})
	t.Run("upstream", func(t *testing.T) {
		db.want(t, "www.example.org", typeA, "Success 192.0.2.1")
		db.want(t, "nowhere.example.org", typeA, "NameError")
		db.want(t, "big.example.org", typeA, "Success+cut")
		if got, err := dial(t, netnsOf(s, "db"), "tcp").ask("big.example.org", typeA); err != nil || strings.Count(got, " ") != 200 {
			t.Errorf("big answer by TCP: %.40q, %v", got, err)
		}
	})
	t.Run("an internal network asks nobody outside", func(t *testing.T) {
		s := s.For(t)
		s.OK("engine", "network", "create", "--internal", "closed")
		run(s, "shut", "--network", "closed")
		c := dial(t, netnsOf(s, "shut"), "udp")
		c.want(t, "www.example.org", typeA, "ServerFailure")
		c.want(t, "shut", typeA, "Success "+address(s, "shut", "closed", "IPAddress"))
		c.want(t, "web", typeA, "ServerFailure") // of another network
		s.OK("engine", "network", "connect", "app", "shut")
		c.want(t, "www.example.org", typeA, "Success 192.0.2.1")
		c.want(t, "web", typeA, "Success "+web4)
		s.OK("engine", "network", "disconnect", "app", "shut")
		c.want(t, "web", typeA, "ServerFailure")
		s.OK("engine", "rm", "-f", "shut")
	})
	t.Run("connect, rename, disconnect", func(t *testing.T) {
		s := s.For(t)
		run(s, "late")
		s.OK("engine", "network", "connect", "--alias", "tardy", "app", "late")
		late := address(s, "late", "app", "IPAddress")
		db.want(t, "tardy", typeA, "Success "+late)
		s.OK("engine", "rename", "late", "later")
		db.want(t, "late", typeA, "NameError")
		db.want(t, "later", typeA, "Success "+late)
		db.want(t, reverse(t, late), typePTR, "Success later.app.")
		// It was started without a server, so that it learns names from its hosts file.
		if !harness.Eventually(5*time.Second, func() bool {
			return strings.Contains(s.OK("engine", "exec", "later", "cat", "/etc/hosts"), web4+"\tweb ")
		}) {
			t.Error("a container that came later does not know the names")
		}
		s.OK("engine", "network", "disconnect", "app", "later")
		db.want(t, "tardy", typeA, "NameError")
		db.want(t, reverse(t, late), typePTR, "NameError")
		s.OK("engine", "rm", "-f", "later")
	})
	t.Run("a service of three", func(t *testing.T) {
		s := s.For(t)
		seen := map[string]int{}
		for i := range 3 {
			run(s, fmt.Sprintf("api-%d", i), "--network", "app", "--network-alias", "api")
		}
		if got, err := db.ask("api", typeA); err != nil || strings.Count(got, " ") != 3 {
			t.Errorf("api: %q, %v", got, err)
		}
		for range 30 {
			if _, err := db.ask("api", typeA); err != nil {
				t.Fatal(err)
			}
			seen[db.first]++
		}
		for first, n := range seen {
			if len(seen) != 3 || n != 10 {
				t.Errorf("%s came first %d times of 30 among %d", first, n, len(seen))
			}
		}
		s.OK("engine", "rm", "-f", "api-0", "api-1", "api-2")
		db.want(t, "api", typeA, "NameError")
	})
	t.Run("port 53 is left to a container's own DNS server", func(t *testing.T) {
		err := within(web.netns, func() error {
			u, err := net.ListenPacket("udp", "0.0.0.0:53")
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = u.Close() })
			l, err := net.Listen("tcp", "0.0.0.0:53")
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		web.want(t, "db", typeA, "Success "+db4)
		dial(t, web.netns, "tcp").want(t, "db", typeA, "Success "+db4)
	})
	if t.Failed() {
		files, _ := filepath.Glob(filepath.Join(s.Root, "run/engine/names/*/*"))
		for _, f := range files {
			data, _ := os.ReadFile(f)
			t.Logf("%s: %s", f, data)
		}
	}
	rate(t, netnsOf(s, "db"))
}

// rate prints how many queries a second one container gets answered.
func rate(t *testing.T, netns string) {
	for _, name := range []string{"web", "www.example.org"} {
		var n atomic.Int64
		var wg sync.WaitGroup
		end := time.Now().Add(time.Second)
		for range 8 {
			c := dial(t, netns, "udp")
			wg.Go(func() {
				for time.Now().Before(end) {
					if _, err := c.ask(name, typeA); err != nil {
						t.Error(err)
						return
					}
					n.Add(1)
				}
			})
		}
		wg.Wait()
		t.Logf("%s: %d queries a second, 8 clients", name, n.Load())
	}
}

// prober asks for a name and fetches a page every 10 ms: from a neighbour, and by a published
// port of the host.
type prober struct {
	dns, http, published atomic.Int64 // that succeeded
	mu                   sync.Mutex
	failures             []string
}

func (p *prober) failed(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = append(p.failures, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// start probes until the test ends or stop is called.
func (p *prober) start(t *testing.T, host, netns, want string) (stop func()) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	every := func(fn func()) {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-done:
					return
				case <-tick.C:
					fn()
				}
			}
		})
	}
	c, web, outside := dial(t, netns, "udp"), httpIn(netns), httpIn(host)
	every(func() {
		if got, err := c.ask("web", typeA); err != nil || got != "Success "+want {
			p.failed("DNS: %q, %v", got, err)
			return
		}
		p.dns.Add(1)
	})
	every(func() { p.fetch(web, "http://"+want+"/page", &p.http) })
	every(func() { p.fetch(outside, "http://127.0.0.1:8080/page", &p.published) })
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

func (p *prober) fetch(c *http.Client, url string, good *atomic.Int64) {
	r, err := c.Get(url)
	if err != nil {
		p.failed("HTTP: %v", err)
		return
	}
	defer func() { _ = r.Body.Close() }()
	if body, err := io.ReadAll(r.Body); err != nil || r.StatusCode != 200 || string(body) != "hello\n" {
		p.failed("HTTP: %s: %d %q %v", url, r.StatusCode, body, err)
		return
	}
	good.Add(1)
}

func TestNamesOutliveBothDaemons(t *testing.T) {
	kills := 20
	if v := os.Getenv("STRATA_NAMES_KILLS"); v != "" {
		var err error
		if kills, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	s := newStack(t)
	s.OK("engine", "network", "create", "app")
	s.OK("engine", "run", "-d", "--name", "web", "--network", "app", "-p", "8080:80", "busybox:test", "sh", "-c", "mkdir /www; echo hello >/www/page; exec httpd -f -p 80 -h /www")
	run(s, "ask", "--network", "app", "--restart", "always")
	want := address(s, "web", "app", "IPAddress")
	netns := netnsOf(s, "ask")
	if !harness.Eventually(5*time.Second, func() bool {
		r, err := httpIn(netns).Get("http://" + want + "/page")
		return err == nil && r.Body.Close() == nil && r.StatusCode == 200
	}) {
		t.Fatal("no page")
	}
	var p prober
	stop := p.start(t, "/run/netns/"+s.Netns, netns, want)
	defer stop()
	for range kills {
		s.KillEngine()
		s.KillSupervisor()
		dns, pages, published := p.dns.Load(), p.http.Load(), p.published.Load()
		if !harness.Eventually(10*time.Second, func() bool {
			return p.dns.Load() >= dns+10 && p.http.Load() >= pages+10 && p.published.Load() >= published+10
		}) {
			t.Error("probes do not succeed with both daemons dead")
		}
		s.StartSupervisor()
		s.StartEngine()
		s.WaitReady()
	}
	stop()
	if len(p.failures) > 0 {
		t.Errorf("%d probes failed:\n%s", len(p.failures), strings.Join(p.failures[:min(20, len(p.failures))], "\n"))
	}
	t.Logf("%d kills of both daemons: %d DNS, %d HTTP probes of a neighbour and %d of a published port, %d failures", kills, p.dns.Load(), p.http.Load(), p.published.Load(), len(p.failures))

	t.Run("restarted without the engine", func(t *testing.T) {
		s := s.For(t)
		s.KillEngine()
		defer func() { s.StartEngine(); s.WaitReady() }()
		restarted(t, s, netns)
		dial(t, netns, "udp").want(t, "web", typeA, "Success "+want)
	})
}

// restarted kills the process of the one container with "sleep" and waits until the
// supervisor has started it again.
func restarted(t *testing.T, s *harness.Stack, netns string) {
	t.Helper()
	before := sleeper(t, netns)
	if before == 0 {
		t.Fatal("the container does not run")
	}
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !harness.Eventually(15*time.Second, func() bool { now := sleeper(t, netns); return now != 0 && now != before }) {
		t.Fatalf("the supervisor did not start it again\n%s", s.Logs())
	}
}

// sleeper returns the process "sleep 600" in a netns.
func sleeper(t *testing.T, netns string) int {
	t.Helper()
	want, err := os.Stat(netns)
	if err != nil {
		t.Fatal(err)
	}
	all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range all {
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if st, err := os.Stat(path); err == nil && os.SameFile(st, want) && string(cmdline) == "sleep\x00600\x00" {
			return pid
		}
	}
	return 0
}
