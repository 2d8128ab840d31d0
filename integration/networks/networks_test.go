// Package networks sees networks as users and neighbours do: with both command lines, from
// containers, from the host, and from a LAN beside it.
package networks

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"strata/integration/harness"
)

var clients = []string{"engine", "docker"}

// scanFor makes this binary a port scanner: "ADDRESS FIRST LAST".
const scanFor = "STRATA_SCAN"

func TestMain(m *testing.M) {
	if wish := os.Getenv(scanFor); wish != "" {
		scanPorts(wish)
		return
	}
	os.Exit(m.Run())
}

// scanPorts prints the TCP ports that can be connected to.
func scanPorts(wish string) {
	var address string
	var first, last int
	if _, err := fmt.Sscan(wish, &address, &first, &last); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []int
	slots := make(chan struct{}, 512) // as many at a time
	for port := first; port <= last; port++ {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c, err := net.DialTimeout("tcp", net.JoinHostPort(address, strconv.Itoa(port)), 400*time.Millisecond)
			if err == nil {
				_ = c.Close()
				mu.Lock()
				defer mu.Unlock()
				open = append(open, port)
			}
		})
	}
	wg.Wait()
	slices.Sort(open)
	fmt.Println(open)
}

// lan puts a neighbour beside the stack's host: the host is 192.0.2.1, the neighbour
// 192.0.2.2, and it sends what it does not know to the host.
func lan(t *testing.T, s *harness.Stack) (neighbour string) {
	t.Helper()
	neighbour = s.Netns + "-lan"
	for _, args := range [][]string{
		{"netns", "add", neighbour},
		{"-n", s.Netns, "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", neighbour},
		{"-n", s.Netns, "addr", "add", "192.0.2.1/24", "dev", "lan0"},
		{"-n", s.Netns, "link", "set", "lan0", "up"},
		{"-n", neighbour, "addr", "add", "192.0.2.2/24", "dev", "eth0"},
		{"-n", neighbour, "link", "set", "eth0", "up"},
		{"-n", neighbour, "route", "add", "default", "via", "192.0.2.1"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", neighbour).Run() })
	return neighbour
}

// scan returns the open ports of an address, seen from a network namespace.
func scan(t *testing.T, netns, address string, first, last int) string {
	t.Helper()
	cmd := exec.Command("nsenter", "--net=/run/netns/"+netns, "/proc/self/exe")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[2] = self
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", scanFor, address, first, last))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("scan: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// serve is a command that answers HTTP on ports with a word.
func serve(word string, ports ...int) []string {
	script := "echo " + word + " > /tmp/index.html; "
	for _, p := range ports {
		script += fmt.Sprintf("httpd -h /tmp -p %d; ", p)
	}
	return []string{"busybox:test", "sh", "-c", script + "exec sleep 100000"}
}

// run starts a container and returns its id.
func run(s *harness.Stack, client string, args ...string) string {
	return s.OK(client, append([]string{"run", "-d", "--stop-timeout", "0"}, args...)...)
}

func address(s *harness.Stack, client, container, network string) string {
	return s.OK(client, "inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network), container)
}

// gets reports whether a container fetches a page.
func gets(s *harness.Stack, client, from, url, want string) error {
	r := s.Run(s.Command(client, "exec", from, "busybox", "timeout", "2", "wget", "-q", "-O", "-", url))
	if r.Code != 0 || strings.TrimSpace(r.Stdout) != want {
		return fmt.Errorf("%s fetches %s: exit code %d, %q %q, want %q", from, url, r.Code, r.Stdout, r.Stderr, want)
	}
	return nil
}

// fails checks that a container cannot connect to another: timeout and wget say so by 143
// (nobody answers) and 1 (no route, no such name).
func fails(t *testing.T, s *harness.Stack, client, from, target string) {
	t.Helper()
	r := s.Run(s.Command(client, "exec", from, "busybox", "timeout", "2", "wget", "-q", "-O", "-", "http://"+target+"/"))
	if r.Code != 1 && r.Code != 143 || r.Stdout != "" {
		t.Errorf("%s connects to %s: %+v, want a timeout or a refusal", from, target, r)
	}
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	var err error
	if !harness.Eventually(5*time.Second, func() bool { err = try(); return err == nil }) {
		t.Error(err)
	}
}

// TestIsolationLab is the classic one: nginx sees the API and not the database, the API sees
// both, the database sees nobody outside.
func TestIsolationLab(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			s.For(t)
			s.OK(client, "network", "create", "frontend")
			s.OK(client, "network", "create", "--internal", "backend")
			run(s, client, append([]string{"--name", "nginx", "--network", "frontend"}, serve("nginx", 80)...)...)
			run(s, client, append([]string{"--name", "api", "--network", "frontend"}, serve("api", 80)...)...)
			run(s, client, append([]string{"--name", "database", "--network", "backend"}, serve("database", 80)...)...)
			s.OK(client, "network", "connect", "--alias", "api.backend", "backend", "api")
			db, api := address(s, client, "database", "backend"), address(s, client, "api", "frontend")
			for _, tt := range []struct{ from, name, ip, want string }{
				{"nginx", "api", api, "api"},
				{"api", "nginx", address(s, client, "nginx", "frontend"), "nginx"},
				{"api", "database", db, "database"},
				{"database", "api.backend", address(s, client, "api", "backend"), "api"},
			} {
				eventually(t, func() error { return gets(s, client, tt.from, "http://"+tt.name+"/", tt.want) })
				eventually(t, func() error { return gets(s, client, tt.from, "http://"+tt.ip+"/", tt.want) })
			}
			for _, tt := range []struct{ from, target string }{{"nginx", db}, {"nginx", "database"}, {"database", api}} {
				fails(t, s, client, tt.from, tt.target)
			}
			// The database has no way out; taken off the backend, the API does not see it.
			if out := s.OK(client, "exec", "database", "ip", "route"); strings.Contains(out, "default") {
				t.Errorf("a container of an internal network has a default route:\n%s", out)
			}
			s.OK(client, "network", "disconnect", "backend", "api")
			fails(t, s, client, "api", db)
			r := s.Run(s.Command(client, "network", "rm", "backend"))
			if r.Code == 0 || !strings.Contains(r.Stderr, "has active endpoints") || !strings.Contains(r.Stderr, `name:"database"`) {
				t.Errorf("rm of a network in use: %+v", r)
			}
			s.OK(client, "rm", "-f", "nginx", "api", "database")
			if out := s.OK(client, "network", "prune", "-f"); !strings.Contains(out, "backend") || !strings.Contains(out, "frontend") {
				t.Errorf("prune printed %q", out)
			}
		})
	}
}

func TestNothingUnpublishedIsReachable(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	neighbour := lan(t, s)
	s.OK("engine", "network", "create", "app")
	s.OK("engine", "network", "create", "other")
	run(s, "engine", append([]string{"--name", "web", "--network", "app", "-p", "8080:80", "-p", "127.0.0.1:8081:81"}, serve("web", 80, 81, 22, 3306)...)...)
	run(s, "engine", append([]string{"--name", "stranger", "--network", "other"}, serve("stranger", 80)...)...)
	web := address(s, "engine", "web", "app")
	eventually(t, func() error {
		if got := scan(t, s.Netns, web, 1, 4000); got != "[22 80 81 3306]" {
			return fmt.Errorf("the host sees ports %s of the container, want all that it opened", got)
		}
		return nil
	})
	if got := scan(t, neighbour, "192.0.2.1", 1, 20000); got != "[8080]" {
		t.Errorf("the LAN sees ports %s of the host, want [8080]", got)
	}
	if got := scan(t, neighbour, web, 1, 4000); got != "[]" {
		t.Errorf("the LAN sees ports %s of the container, want none", got)
	}
	fails(t, s, "engine", "stranger", web)
	if body, failure := s.Curl("http://127.0.0.1:8081/"); failure != "" {
		t.Errorf("the port of 127.0.0.1: %q %s", body, failure)
	}
	// With the daemons dead it is the same.
	s.KillEngine()
	s.KillSupervisor()
	if got := scan(t, neighbour, "192.0.2.1", 8000, 8100); got != "[8080]" {
		t.Errorf("with dead daemons the LAN sees ports %s, want [8080]", got)
	}
	if got := scan(t, neighbour, web, 1, 100); got != "[]" {
		t.Errorf("with dead daemons the LAN sees ports %s of the container", got)
	}
	s.StartSupervisor()
	s.StartEngine()
	s.WaitReady()
}

func TestPublishAndWithdrawOnARunningContainer(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	run(s, "engine", append([]string{"--name", "web", "-p", "8080:80"}, serve("web", 80)...)...)
	run(s, "engine", append([]string{"--name", "other", "-p", "9090:80"}, serve("other", 80)...)...)
	answers := func(port int, want string) {
		t.Helper()
		eventually(t, func() error {
			body, failure := s.Curl(fmt.Sprintf("http://127.0.0.1:%d/", port))
			if strings.TrimSpace(body) != want {
				return fmt.Errorf("port %d answers %q %s, want %q", port, body, failure, want)
			}
			return nil
		})
	}
	answers(8080, "web")
	s.OK("engine", "update", "--publish-add", "8081:80/tcp", "--publish-rm", "8080", "web")
	check := func(when string) {
		t.Helper()
		answers(8081, "web")
		if body, failure := s.Curl("http://127.0.0.1:8080/"); failure == "" {
			t.Errorf("%s: the withdrawn port answers %q", when, body)
		}
		for _, client := range clients {
			if out := s.OK(client, "ps", "--format", "{{.Ports}}", "--filter", "name=web"); !strings.Contains(out, "0.0.0.0:8081->80/tcp") || strings.Contains(out, "8080") {
				t.Errorf("%s: %s ps: %s", when, client, out)
			}
			if out := s.OK(client, "inspect", "-f", "{{json .HostConfig.PortBindings}} {{json .NetworkSettings.Ports}}", "web"); strings.Count(out, "8081") < 2 || strings.Contains(out, "8080") {
				t.Errorf("%s: %s inspect: %s", when, client, out)
			}
		}
	}
	check("at once")
	for args, want := range map[string]string{
		"--publish-add 9090:80": "port is already allocated by container other",
		"--publish-rm 7":        "no port 7 of container web is published",
		"--publish-rm x":        "invalid published port",
	} {
		if r := s.Engine(append(append([]string{"update"}, strings.Fields(args)...), "web")...); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("update %s: %+v, want %q", args, r, want)
		}
	}
	check("after errors")
	s.KillEngine()
	s.StartEngine()
	s.WaitReady()
	check("with a new engine")
	s.OK("engine", "restart", "-t", "0", "web")
	check("after a restart")
	s.OK("engine", "stop", "-t", "0", "web")
	s.OK("engine", "update", "--publish-add", "8085:80", "web")
	s.OK("engine", "start", "web")
	answers(8085, "web")
	check("after a start")
}

func TestAThousandPortsInOneRange(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	begin := time.Now()
	run(s, "docker", append([]string{"--name", "many", "-p", "20000-20999:20000-20999", "-p", "30000-30999:5000-5999/udp"}, serve("many", 20000, 20500, 20999)...)...)
	t.Logf("2000 ports: run took %v", time.Since(begin))
	for _, port := range []int{20000, 20500, 20999} {
		eventually(t, func() error {
			body, failure := s.Curl(fmt.Sprintf("http://127.0.0.1:%d/", port))
			if strings.TrimSpace(body) != "many" {
				return fmt.Errorf("port %d: %q %s", port, body, failure)
			}
			return nil
		})
	}
	if got := strings.Count(s.OK("docker", "port", "many"), "0.0.0.0:"); got != 2000 {
		t.Errorf("docker port lists %d ports, want 2000", got)
	}
	if got := s.OK("engine", "ps", "--format", "{{.Ports}}"); !strings.Contains(got, "0.0.0.0:20000-20999->20000-20999/tcp") {
		t.Errorf("ps: %s", got)
	}
	begin = time.Now()
	s.OK("docker", "rm", "-f", "many")
	t.Logf("rm took %v", time.Since(begin))
	if out, err := exec.Command("nsenter", "--net=/run/netns/"+s.Netns, "nft", "list", "map", "inet", "strata", "pub4").CombinedOutput(); err != nil || strings.Contains(string(out), "elements") {
		t.Errorf("after rm the map is not empty: %v\n%.300s", err, out)
	}
}

func TestSeveralNetworksWithChosenAddresses(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			s.For(t)
			s.OK(client, "network", "create", "--subnet", "10.71.0.0/24", "one")
			s.OK(client, "network", "create", "--ipv6", "--subnet", "10.72.0.0/24", "--subnet", "fd72::/64", "two")
			run(s, client, append([]string{"--name", "cc", "--network", "name=one,ip=10.71.0.9,mac-address=02:42:0a:00:00:99,gw-priority=1", "--network", "name=two,ip=10.72.0.9,ip6=fd72::9,gw-priority=5"}, serve("cc", 80)...)...)
			out := s.OK(client, "exec", "cc", "ip", "addr")
			for _, want := range []string{"10.71.0.9/24", "02:42:0a:00:00:99", "10.72.0.9/24", "fd72::9/64"} {
				if !strings.Contains(out, want) {
					t.Errorf("ip addr lacks %s:\n%s", want, out)
				}
			}
			route := func(want string) {
				t.Helper()
				if out := s.OK(client, "exec", "cc", "ip", "route"); !strings.Contains(out, "default via "+want) {
					t.Errorf("routes, want a default via %s:\n%s", want, out)
				}
			}
			route("10.72.0.1")
			s.OK(client, "network", "disconnect", "two", "cc")
			route("10.71.0.1")
			s.OK(client, "network", "connect", "--ip", "10.72.0.33", "--ip6", "fd72::33", "--gw-priority", "9", "two", "cc")
			route("10.72.0.1")
			s.OK(client, "restart", "-t", "0", "cc")
			if got := address(s, client, "cc", "two"); got != "10.72.0.33" {
				t.Errorf("address after a restart = %s, want 10.72.0.33", got)
			}
			route("10.72.0.1")
			s.OK(client, "rm", "-f", "cc")
			s.OK(client, "network", "rm", "one", "two")
		})
	}
}

func TestWishesThatCannotBeAreRefused(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	s.OK("engine", "network", "create", "--subnet", "10.73.0.0/30", "tiny")
	s.OK("engine", "network", "create", "-o", "com.docker.network.bridge.name=mine0", "named")
	run(s, "engine", "--name", "first", "--network", "tiny", "busybox:test", "sleep", "10000")
	busy := s.Host("nc", "-l", "-p", "7070")
	if _, err := exec.LookPath("nc"); err != nil {
		busy = s.Host("busybox", "nc", "-l", "-p", "7070")
	}
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	harness.Eventually(5*time.Second, func() bool { return scan(t, s.Netns, "127.0.0.2", 1, 1) != "" && listening(s, 7070) })
	for _, client := range clients {
		for _, tt := range []struct{ args, want string }{
			{"network create --subnet 10.73.0.0/16 n", "Pool overlaps with other one on this address space"},
			{"network create --subnet 10.74.0.1/24 n", "it should be 10.74.0.0/24"},
			{"network create --subnet 10.74.0.0/33 n", "10.74.0.0/33"},
			{"network create -o com.docker.network.bridge.name=mine0 n", "mine0"},
			{"network create -d macvlan -o parent=absent n", "invalid subinterface vlan name absent"},
			{"network create tiny", "network with name tiny already exists"},
			{"network create host", "predefined"},
			{"network rm bridge", "pre-defined network and cannot be removed"},
			{"network rm absent", "network absent not found"},
			{"run --network tiny busybox:test true", "no available IPv4 addresses on this network's address pools: tiny"},
			{"run --network absent busybox:test true", "network absent not found"},
			{"run --network named --ip 10.1.2.3 busybox:test true", "10.1.2.3"},
			{"run -p 7070:80 busybox:test true", "address already in use by "},
		} {
			if r := s.Run(s.Command(client, strings.Fields(tt.args)...)); r.Code == 0 || !strings.Contains(r.Stderr, tt.want) {
				t.Errorf("%s %s: %+v, want %q", client, tt.args, r, tt.want)
			}
		}
	}
}

func listening(s *harness.Stack, port int) bool {
	out, _ := s.Host("ss", "-Hltn", fmt.Sprintf("sport = :%d", port)).Output()
	return len(out) > 0
}

func TestWhatOthersBreakIsMended(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	run(s, "engine", append([]string{"--name", "web", "-p", "8080:80"}, serve("web", 80)...)...)
	eventually(t, func() error {
		_, failure := s.Curl("http://127.0.0.1:8080/")
		if failure != "" {
			return fmt.Errorf("%s", failure)
		}
		return nil
	})
	nft := func(args ...string) (string, error) {
		out, err := s.Host("nft", args...).CombinedOutput()
		return string(out), err
	}
	var slowest time.Duration
	for range 5 {
		if out, err := nft("flush", "ruleset"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		begin := time.Now()
		if !harness.Eventually(5*time.Second, func() bool {
			_, err := nft("get", "element", "inet", "strata", "pub4", "{ tcp . 8080 }")
			return err == nil
		}) {
			t.Fatal("the table does not come back after a flush")
		}
		slowest = max(slowest, time.Since(begin))
	}
	t.Logf("the table was back after at most %v", slowest)
	if slowest > 200*time.Millisecond {
		t.Errorf("the table was back after %v, want at most 200ms", slowest)
	}
	if out, err := s.Host("ip", "link", "del", "strata0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run(s, "engine", append([]string{"--name", "next", "-p", "8081:80"}, serve("next", 80)...)...)
	s.OK("engine", "restart", "-t", "0", "web")
	for port, want := range map[int]string{8080: "web", 8081: "next"} {
		eventually(t, func() error {
			body, failure := s.Curl(fmt.Sprintf("http://127.0.0.1:%d/", port))
			if strings.TrimSpace(body) != want {
				return fmt.Errorf("after the bridge was deleted port %d answers %q %s", port, body, failure)
			}
			return nil
		})
	}
}

func TestDoctorMakesDeletedInterfacesAgain(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	run(s, "engine", append([]string{"--name", "web", "-p", "8080:80"}, serve("web", 80)...)...)
	answers := func() error {
		body, failure := s.Curl("http://127.0.0.1:8080/")
		if strings.TrimSpace(body) != "web" {
			return fmt.Errorf("the port answers %q %s", body, failure)
		}
		return nil
	}
	eventually(t, answers)
	veth := regexp.MustCompile(`veth[0-9a-f]+`).FindString(s.OK("engine", "explain", "--network", "web"))
	if out, err := s.Host("ip", "link", "del", veth).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out := s.OK("engine", "explain", "--network", "web"); !strings.Contains(out, "missing, peer eth0 inside") {
		t.Errorf("explain does not say what is missing:\n%s", out)
	}
	if r := s.Engine("doctor"); r.Code != 1 || !strings.Contains(r.Stdout, "lost veth") || !strings.Contains(r.Stdout, veth) {
		t.Errorf("doctor: %+v", r)
	}
	if r := s.Engine("doctor", "--repair"); r.Code != 0 {
		t.Errorf("doctor --repair: %+v", r)
	}
	eventually(t, answers)
}

func TestContainersShareTheNetworkOfAnother(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	for _, client := range clients {
		t.Run(client, func(t *testing.T) {
			s.For(t)
			s.OK(client, "network", "create", "app")
			run(s, client, append([]string{"--name", "web", "--hostname", "shared", "--network", "app", "-p", "8080:80"}, serve("web", 81)...)...)
			run(s, client, append([]string{"--name", "side", "--network", "container:web"}, serve("side", 80)...)...)
			eventually(t, func() error { return gets(s, client, "web", "http://127.0.0.1:80/", "side") })
			eventually(t, func() error { return gets(s, client, "side", "http://web:81/", "web") })
			if body, failure := s.Curl("http://127.0.0.1:8080/"); strings.TrimSpace(body) != "side" {
				t.Errorf("the port of web, served by side: %q %s", body, failure)
			}
			for _, file := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
				if mine, theirs := s.OK(client, "exec", "side", "cat", file), s.OK(client, "exec", "web", "cat", file); mine != theirs {
					t.Errorf("%s of side is not web's:\n%s\n%s", file, mine, theirs)
				}
			}
			for args, want := range map[string]string{
				"run --network container:web -p 9090:80 busybox:test true":      "conflicting options: port publishing and the container type network mode",
				"run --network container:web --hostname x busybox:test true":    "conflicting options: hostname and the network mode",
				"run --network container:absent busybox:test true":              "absent",
				"network connect bridge side":                                   "container sharing network namespace with another container or host cannot be connected to any other network",
				"run --network container:web --dns 192.0.2.1 busybox:test true": "conflicting options: dns and the network mode",
			} {
				if r := s.Run(s.Command(client, strings.Fields(args)...)); r.Code == 0 || !strings.Contains(r.Stderr, want) {
					t.Errorf("%s: %+v, want %q", args, r, want)
				}
			}
			s.OK(client, "rm", "-f", "side", "web")
			s.OK(client, "network", "rm", "app")
		})
	}
}

// TestNetworkInspectHasDockerdsShape compares with a stock dockerd, key by key and type by
// type.
func TestNetworkInspectHasDockerdsShape(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	docker := s.StockDocker()
	ours := func(args ...string) harness.Result { return s.Docker(args...) }
	stock := func(args ...string) harness.Result { return s.Run(docker(args...)) }
	archive := s.BusyboxArchive()
	if r := stock("load", "-q", "-i", archive); r.Code != 0 {
		t.Fatalf("stock load: %+v", r)
	}
	var shapes [2][]string
	for i, do := range []func(...string) harness.Result{ours, stock} {
		for _, args := range []string{
			"network create --subnet 10.75.0.0/24 --gateway 10.75.0.1 --ip-range 10.75.0.128/25 --aux-address a=10.75.0.5 --label x=y -o com.docker.network.driver.mtu=1400 app",
			"network create --internal inside",
			"run -d --name cc --network app busybox:test sleep 10000",
		} {
			if r := do(strings.Fields(args)...); r.Code != 0 {
				t.Fatalf("%s: %+v", args, r)
			}
		}
		for _, name := range []string{"app", "inside", "host", "none"} {
			r := do("network", "inspect", name)
			if r.Code != 0 {
				t.Fatalf("inspect %s: %+v", name, r)
			}
			var v any
			if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
				t.Fatal(err)
			}
			shapes[i] = append(shapes[i], shape(name, v)...)
		}
		do("rm", "-f", "cc")
		do("network", "rm", "app", "inside")
	}
	for _, line := range shapes[1] {
		if !slices.Contains(shapes[0], line) {
			t.Errorf("dockerd has %s, we have not", line)
		}
	}
	for _, line := range shapes[0] {
		// What dockerd 28 added to what 20.10, Debian's, prints.
		if !slices.Contains(shapes[1], line) && !strings.Contains(line, "EnableIPv4") {
			t.Errorf("we have %s, dockerd has not", line)
		}
	}
}

var id = regexp.MustCompile(`^[0-9a-f]{64}$`)

// shape lists the paths of a JSON value with their types; values that say the same everywhere
// are shown.
func shape(path string, v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		out = append(out, path+" {}")
		for key, value := range v {
			if id.MatchString(key) {
				key = "ID"
			}
			out = append(out, shape(path+"."+key, value)...)
		}
	case []any:
		out = append(out, path+" []")
		for _, value := range v {
			out = append(out, shape(path+"[]", value)...)
		}
	case string:
		for _, same := range []string{".Driver", ".Scope", ".Subnet", ".Gateway", ".IPRange", ".Name", ".IPv4Address", ".IPv6Address"} {
			if strings.HasSuffix(path, same) && !strings.HasPrefix(path, "inside.") && !strings.Contains(path, "inside[].IPAM") {
				return []string{path + " = " + v}
			}
		}
		out = append(out, path+" string")
	default:
		out = append(out, fmt.Sprintf("%s %v", path, v))
	}
	return out
}
