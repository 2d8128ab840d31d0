package firewall

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strata/pkg/linux/netns"
)

var update = flag.Bool("update", false, "write golden files")

func example() Change {
	at := netip.MustParseAddrPort
	return Change{
		Networks: []Network{
			{Bridge: "strata0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd00::/64")}, ICC: true, Masquerade4: true, Masquerade6: true},
			{Bridge: "br-quiet", Masquerade4: true},
			{Bridge: "br-inside", Internal: true, ICC: true},
			{Bridge: "br-routed", ICC: true, Mode4: Routed, Mode6: Unprotected, SNAT4: netip.MustParseAddr("192.0.2.7"), SNAT6: netip.MustParseAddr("2001:db8::7")},
		},
		Ports: []Port{
			{Proto: "tcp", HostPort: 8080, To: at("172.17.0.2:80")},
			{Proto: "tcp", HostPort: 8080, To: at("[fd00::2]:80")},
			{Proto: "udp", HostPort: 53, HostIP: netip.MustParseAddr("127.0.0.1"), To: at("172.17.0.3:5353")},
			{Proto: "sctp", HostPort: 9, HostIP: netip.IPv6Loopback(), To: at("[fd00::3]:9")},
			{Proto: "tcp", HostPort: 443, To: at("172.18.0.2:8443"), Routed: true},
			{Proto: "tcp", HostPort: 443, To: at("[fd01::2]:8443"), Routed: true},
		},
	}
}

func TestTextIsTheWholeRuleset(t *testing.T) {
	f := New(Config{Table: "strata", GuardForward: true, SkipLoopback6: true})
	if err := f.Want(example()); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.nft", f.Text())
}

// TestKernelHoldsWhatTextSays compares what nft(8) reads back with what it makes of Text.
func TestKernelHoldsWhatTextSays(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft(8) to read the kernel's rules back")
	}
	inside(t, func(ns string) error {
		f := New(Config{Table: "strata", GuardForward: true, SkipLoopback6: true})
		defer func() { _ = f.Close() }()
		half := example()
		if err := f.Want(Change{Networks: half.Networks}); err != nil {
			return err
		}
		if err := f.Restore(t.Context()); err != nil {
			return err
		}
		if err := f.Add(Change{Ports: half.Ports}); err != nil {
			return err
		}
		ours, err := exec.Command("nft", "-s", "list", "table", "inet", "strata").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, ours)
		}
		load := exec.Command("nft", "-f", "-")
		load.Stdin = strings.NewReader("flush ruleset\n" + f.Text())
		if out, err := load.CombinedOutput(); err != nil {
			return fmt.Errorf("nft does not accept our text: %w: %s", err, out)
		}
		theirs, err := exec.Command("nft", "-s", "list", "table", "inet", "strata").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, theirs)
		}
		if normal(ours) != normal(theirs) {
			t.Errorf("the kernel holds\n%s\nbut the text means\n%s", ours, theirs)
		}
		return nil
	})
}

func TestRemoveLeavesTheSkeleton(t *testing.T) {
	inside(t, func(ns string) error {
		f := New(Config{Table: "strata"})
		defer func() { _ = f.Close() }()
		if err := f.Restore(t.Context()); err != nil {
			return err
		}
		empty := f.Text()
		for range 2 {
			if err := f.Add(example()); err != nil {
				return err
			}
		}
		if err := f.Remove(example()); err != nil {
			return err
		}
		if f.Text() == empty {
			t.Error("elements went although a second change wants them")
		}
		if err := f.Remove(example()); err != nil {
			return err
		}
		if f.Text() != empty {
			t.Errorf("left behind:\n%s", f.Text())
		}
		return f.Destroy()
	})
}

func TestThirtyThousandPortsAreRestoredInOneTransaction(t *testing.T) {
	inside(t, func(ns string) error {
		f := New(Config{Table: "strata"})
		defer func() { _ = f.Close() }()
		var c Change
		for i := range 30000 {
			c.Ports = append(c.Ports, Port{Proto: "tcp", HostPort: uint16(20000 + i), To: netip.AddrPortFrom(netip.MustParseAddr("172.17.0.2"), 80)})
		}
		if err := f.Want(c); err != nil {
			return err
		}
		return f.Restore(t.Context())
	})
}

// normal makes two listings comparable: element order is the kernel's business.
func normal(listing []byte) string {
	var out []string
	for line := range strings.SplitSeq(string(listing), "\n") {
		line = strings.Trim(strings.TrimSpace(strings.ReplaceAll(line, "elements = {", "")), " ,}")
		for e := range strings.SplitSeq(line, ", ") {
			out = append(out, strings.TrimSpace(e))
		}
	}
	sortWithinSets(out)
	return strings.Join(out, "\n")
}

// sortWithinSets sorts runs of elements, which are the lines that follow a type line.
func sortWithinSets(lines []string) {
	start := -1
	for i, l := range append(lines, "") {
		switch {
		case strings.HasPrefix(l, "type ") && !strings.Contains(l, "hook"):
			start = i + 1
		case l == "" && start >= 0:
			run := lines[start:min(i, len(lines))]
			for a := range run {
				for b := a + 1; b < len(run); b++ {
					if run[b] < run[a] {
						run[a], run[b] = run[b], run[a]
					}
				}
			}
			start = -1
		}
	}
}

// inside runs fn in a netns of its own.
func inside(t *testing.T, fn func(ns string) error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	path := filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(path, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	if err := netns.DoPath(path, func() error { return fn(path) }); err != nil {
		t.Error(err)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs: run with -update and look at the diff\n%s", path, got)
	}
}

// TestFlushedTableIsBackWithin200Milliseconds also checks that our own changes are not
// mistaken for somebody else's.
func TestFlushedTableIsBackWithin200Milliseconds(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft(8) to be the other program")
	}
	inside(t, func(ns string) error {
		f := New(Config{Table: "strata"})
		defer func() { _ = f.Close() }()
		if err := f.Want(example()); err != nil {
			return err
		}
		if err := f.Restore(t.Context()); err != nil {
			return err
		}
		list := func() string {
			out, _ := exec.Command("nft", "-s", "list", "table", "inet", "strata").CombinedOutput()
			return normal(out)
		}
		whole := list()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watching := make(chan error, 1)
		ready := make(chan struct{})
		go func() {
			// The test's thread is in the netns; this goroutine goes there by itself.
			watching <- netns.DoPath(ns, func() error { close(ready); return f.Watch(ctx) })
		}()
		<-ready
		for _, attack := range []string{"flush ruleset", "delete table inet strata", "flush chain inet strata forward", "flush map inet strata pub4"} {
			if out, err := exec.Command("nft", attack).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			begin := time.Now()
			for list() != whole {
				if time.Since(begin) > 2*time.Second {
					t.Fatalf("%s: the table did not come back", attack)
				}
			}
			if took := time.Since(begin); took > 200*time.Millisecond {
				t.Errorf("%s: the table was back after %v", attack, took)
			}
		}
		cancel()
		return <-watching
	})
}
