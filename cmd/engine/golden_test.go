package main

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"strata/pkg/api"
	"strata/pkg/cliapp"
	"strata/pkg/cliformat"
)

var update = flag.Bool("update", false, "write golden files")

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
	if got == string(want) {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("%s line %d = %q, want %q (run with -update to accept)", name, i+1, gotLines[i], wantLines[i])
		}
	}
	t.Fatalf("%s has %d lines, want %d (run with -update to accept)", name, len(gotLines), len(wantLines))
}

// testSession is a session with an empty configuration and environment.
func testSession(t *testing.T) (s *session, stdout, stderr *bytes.Buffer) {
	t.Helper()
	for _, name := range []string{"STRATA_HOST", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION"} {
		t.Setenv(name, "")
	}
	t.Setenv("DOCKER_CONFIG", "/nonexistent/.docker")
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close() })
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	return newSession(stdin, stdout, stderr), stdout, stderr
}

// eachCommand calls f for every command line prefix of the tool.
func eachCommand(path []string, commands []cliapp.Command, f func(path []string)) {
	f(path)
	for _, c := range commands {
		eachCommand(append(path[:len(path):len(path)], c.Name), c.Commands, f)
	}
}

func TestHelpTexts(t *testing.T) {
	var all strings.Builder
	s, _, _ := testSession(t)
	eachCommand(nil, commands(s), func(path []string) {
		s, stdout, stderr := testSession(t)
		if status := newApp(s).Run(t.Context(), append(path[:len(path):len(path)], "--help")); status != 0 || stderr.Len() > 0 {
			t.Fatalf("help of %q = %d, %s", path, status, stderr)
		}
		all.WriteString("$ engine " + strings.Join(append(path, "--help"), " ") + "\n" + stdout.String() + "\n")
	})
	golden(t, "help.txt", all.String())
}

func TestNoTwoFlagsOfACommandShareAName(t *testing.T) {
	s, _, _ := testSession(t)
	var walk func(path string, list []cliapp.Command)
	walk = func(path string, list []cliapp.Command) {
		for _, c := range list {
			seen := map[string]bool{}
			for _, f := range c.Flags {
				for _, name := range []string{"--" + f.Name, "-" + f.Short} {
					if name != "-" && seen[name] {
						t.Errorf("%s %s has two flags %s", path, c.Name, name)
					}
					seen[name] = true
				}
			}
			walk(path+" "+c.Name, c.Commands)
		}
	}
	walk("engine", commands(s))
}

const id = "c097929247a3f0c8174900de5f237ae5d80fa71b2beb2adb4d7c15b282c26fd2"

func someContainers(now time.Time) []container.Summary {
	web := container.Summary{
		ID: id, Names: []string{"/web", "/other/alias"}, Image: "nginx", ImageID: "sha256:" + id, Command: `nginx -g "daemon off;" and more`,
		Created: now.Add(-90 * time.Minute).Unix(), State: container.StateRunning, Status: "Up 2 hours (healthy)",
		Ports: []container.PortSummary{
			{IP: netip.MustParseAddr("0.0.0.0"), PrivatePort: 80, PublicPort: 8080, Type: "tcp"},
			{IP: netip.MustParseAddr("::"), PrivatePort: 80, PublicPort: 8080, Type: "tcp"},
			{IP: netip.MustParseAddr("0.0.0.0"), PrivatePort: 9000, PublicPort: 9000, Type: "tcp"},
			{IP: netip.MustParseAddr("0.0.0.0"), PrivatePort: 9001, PublicPort: 9001, Type: "tcp"},
			{PrivatePort: 443, Type: "tcp"},
		},
		Labels: map[string]string{"b": "2", "a": "1"}, SizeRw: 1500, SizeRootFs: 2_000_000,
		Mounts: []container.MountPoint{
			{Type: mount.TypeVolume, Name: "a-volume-with-a-long-name", Driver: "local"},
			{Type: mount.TypeBind, Source: "/srv"},
		},
		NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{"n2": nil, "n1": nil}},
	}
	done := container.Summary{
		ID: "7d6d8c4a2176" + id[12:], Names: []string{"/done"}, Image: id, ImageID: "sha256:" + id, Command: "true",
		Created: now.Add(-time.Second).Unix(), State: container.StateExited, Status: "Exited (0) Less than a second ago",
	}
	return []container.Summary{done, web}
}

func TestContainerTable(t *testing.T) {
	now := time.Unix(1_700_000_000, 0).UTC()
	var out strings.Builder
	for _, whole := range []bool{false, true} {
		var rows []containerRow
		for _, c := range someContainers(now) {
			r := newContainerRow(c, whole, now)
			r.CreatedAt = "" // in the local time zone
			rows = append(rows, r)
		}
		tab := containerTable(true)
		for _, format := range []string{"", "json", `table {{.Names}}\t{{.Label "a"}}\t{{.Mounts}}\t{{.Networks}}`} {
			if err := cliformat.Write(&out, tab, tab.Choose(format, "", false), rows); err != nil {
				t.Fatal(err)
			}
		}
	}
	golden(t, "ps.txt", out.String())
}

func TestImageTable(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	images := []image.Summary{
		{ID: "sha256:" + id, RepoTags: []string{"nginx:1", "nginx:latest", "reg:5000/x/y:z"}, RepoDigests: []string{"nginx@sha256:" + id}, Created: now.Add(-48 * time.Hour).Unix(), Size: 187_654_321, SharedSize: -1, Containers: -1},
		{ID: "sha256:" + id, RepoTags: []string{"<none>:<none>"}, RepoDigests: []string{"<none>@<none>"}, Created: now.Add(-time.Hour).Unix(), Size: 1_982_000, SharedSize: 1_000_000, Containers: 2},
		{ID: "sha256:" + id, Created: 0, Size: 1},
	}
	var out strings.Builder
	for _, digests := range []bool{false, true} {
		var rows []imageRow
		for _, img := range images {
			rows = append(rows, imageRows(img, digests, false, false, now)...)
		}
		tab := imageTable(digests)
		if err := cliformat.Write(&out, tab, tab.Choose("", "", false), rows); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "images.txt", out.String())
}

func TestDiskUsageTable(t *testing.T) {
	du := system.DiskUsage{
		ImageUsage:     &image.DiskUsage{TotalCount: 3, ActiveCount: 1, TotalSize: 1_000_000, Reclaimable: 250_000},
		ContainerUsage: &container.DiskUsage{TotalCount: 2},
		VolumeUsage:    &volume.DiskUsage{TotalCount: 1, TotalSize: 7, Reclaimable: 7},
	}
	var out strings.Builder
	tab := usageTable()
	if err := cliformat.Write(&out, tab, tab.Choose("", "", false), usageRows(du)); err != nil {
		t.Fatal(err)
	}
	golden(t, "df.txt", out.String())
}

func TestStatsRows(t *testing.T) {
	sample := &statsSample{valid: true, resp: container.StatsResponse{
		ID: id, Name: "/web",
		CPUStats:    container.CPUStats{CPUUsage: container.CPUUsage{TotalUsage: 300}, SystemUsage: 2000, OnlineCPUs: 2},
		PreCPUStats: container.CPUStats{CPUUsage: container.CPUUsage{TotalUsage: 100}, SystemUsage: 1000},
		MemoryStats: container.MemoryStats{Usage: 3 << 20, Limit: 16 << 20, Stats: map[string]uint64{"inactive_file": 1 << 20}},
		Networks:    map[string]container.NetworkStats{"eth0": {RxBytes: 1000, TxBytes: 2000}, "eth1": {RxBytes: 500}},
		BlkioStats: container.BlkioStats{IoServiceBytesRecursive: []container.BlkioStatEntry{
			{Op: "read", Value: 4096}, {Op: "Write", Value: 1_000_000}, {Op: "Total", Value: 9}, {Op: "", Value: 9},
		}},
		PidsStats: container.PidsStats{Current: 5},
	}}
	want := statsRow{
		BlockIO: "4.1kB / 1MB", CPUPerc: "40.00%", Container: "web", ID: "c097929247a3", MemPerc: "12.50%",
		MemUsage: "2MiB / 16MiB", Name: "web", NetIO: "1.5kB / 2kB", PIDs: "5",
	}
	if got := newStatsRow("web", sample, false); got != want {
		t.Errorf("row = %+v, want %+v", got, want)
	}
	if got := newStatsRow("web", &statsSample{}, false); got.CPUPerc != "--" || got.Name != "--" {
		t.Errorf("row before the first sample = %+v, want dashes", got)
	}
}

func TestEventLine(t *testing.T) {
	var out strings.Builder
	m := events.Message{
		Type: "container", Action: "die", TimeNano: 1_700_000_000_000_000_001,
		Actor: events.Actor{ID: "abc", Attributes: map[string]string{"name": "web", "exitCode": "0"}},
	}
	if err := printEvent(&out, m); err != nil {
		t.Fatal(err)
	}
	at, rest, _ := strings.Cut(out.String(), " ")
	if got, err := time.Parse(time.RFC3339Nano, at); err != nil || got.UnixNano() != m.TimeNano {
		t.Errorf("time %q = %v, %v, want that of the event", at, got, err)
	}
	if rest != "container die abc (exitCode=0, name=web)\n" {
		t.Errorf("line = %q", rest)
	}
}

func TestExplanation(t *testing.T) {
	begin := time.Unix(1_700_000_000, 0)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	e := api.Explanation{
		ID: id, Name: "/web",
		Objects: []api.Object{
			{Kind: "process", ID: "4242", Detail: "nginx: master", Layer: "ocirun"},
			{Kind: "namespace", ID: "net:[4026532000]", Detail: "/run/x/netns/web", Layer: "engined"},
			{Kind: "mount", ID: "/", Detail: "overlay", Layer: "supervisord"},
			{Kind: "mount", ID: "/proc", Detail: "proc", Layer: "ocirun"},
			{Kind: "cgroup", ID: "/docker/web", Layer: "ocirun"},
			{Kind: "process", ID: "4200", Detail: "shim", Layer: "shim"},
			{Kind: "strange", ID: "thing", Layer: "shim"},
		},
		Steps: []api.Step{
			{Layer: "ocirun", Name: "create", Start: at(12), Duration: 5 * time.Millisecond},
			{Layer: "engined", Name: "start", Start: at(0), Duration: 20 * time.Millisecond},
			{Layer: "shim", Name: "launch", Start: at(3), Duration: 400 * time.Microsecond},
		},
	}
	var out strings.Builder
	if err := printExplanation(&out, e); err != nil {
		t.Fatal(err)
	}
	golden(t, "explain.txt", out.String())
}

func TestDoctorReport(t *testing.T) {
	var out strings.Builder
	for _, findings := range [][]api.Finding{nil, {
		{Layer: "engined", Code: "leaked-netns", Subject: "/run/x/netns/old", Detail: "belongs to no container", Repaired: true},
		{Layer: "shim", Code: "dead-shim", Subject: "pid 17", Remedy: "engine rm -f web"},
	}} {
		if err := printFindings(&out, findings); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "doctor.txt", out.String())
}
