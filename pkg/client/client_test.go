package client_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"strata/pkg/api"
	"strata/pkg/client"
)

// daemon serves handler on a unix socket, with a /_ping of the given API version.
func daemon(t *testing.T, version string, handler http.HandlerFunc) *client.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_ping" {
			w.Header().Set("Api-Version", version)
			return
		}
		handler(w, r)
	}))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := client.New(client.Options{Host: "unix://" + socket, Trace: "t1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestVersionIsTheOlderOfBothSides(t *testing.T) {
	for server, want := range map[string]string{"1.41": "1.41", "1.99": client.MaxVersion, "": "1.24"} {
		var path string
		c := daemon(t, server, func(w http.ResponseWriter, r *http.Request) {
			path = r.URL.Path
			fmt.Fprint(w, "[]")
		})
		if _, err := c.ContainerList(t.Context(), client.ListContainers{}); err != nil {
			t.Fatal(err)
		}
		if path != "/v"+want+"/containers/json" {
			t.Errorf("daemon of version %q was asked for %s, want version %s", server, path, want)
		}
	}
}

func TestErrorsHaveTheClassOfTheirStatus(t *testing.T) {
	for status, class := range map[int]error{
		400: errdefs.ErrInvalidArgument, 401: errdefs.ErrUnauthenticated, 403: errdefs.ErrPermissionDenied, 404: errdefs.ErrNotFound,
		409: errdefs.ErrConflict, 500: errdefs.ErrUnknown, 501: errdefs.ErrNotImplemented, 503: errdefs.ErrUnavailable,
	} {
		c := daemon(t, "1.44", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprint(w, `{"message":"what went wrong"}`)
		})
		err := c.ContainerStart(t.Context(), "x", "")
		if !errors.Is(err, class) || err.Error() != "Error response from daemon: what went wrong" {
			t.Errorf("status %d = %v, want class %v", status, err, class)
		}
	}
}

func TestErrorWithoutJSONKeepsItsText(t *testing.T) {
	c := daemon(t, "1.44", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "plain words", http.StatusBadGateway) })
	if err := c.ContainerPause(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "plain words") {
		t.Errorf("error = %v, want the daemon's words", err)
	}
}

func TestUnreachableDaemonIsNamedWithARemedy(t *testing.T) {
	host := "unix://" + filepath.Join(t.TempDir(), "nobody.sock")
	c, err := client.New(client.Options{Host: host})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Info(t.Context())
	if !errors.Is(err, errdefs.ErrUnavailable) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v, want unavailable because of a missing file", err)
	}
	for _, part := range []string{host, "engined", "STRATA_HOST"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("message %q does not name %q", err, part)
		}
	}
}

func TestNotModifiedIsNoError(t *testing.T) {
	c := daemon(t, "1.44", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	if err := c.ContainerStart(t.Context(), "x", ""); err != nil {
		t.Errorf("start of a running container: %v, want no error", err)
	}
}

func TestTraceGoesWithEveryRequest(t *testing.T) {
	var got string
	c := daemon(t, "1.44", func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get(api.TraceHeader) })
	if err := c.ContainerUnpause(t.Context(), "x"); err != nil || got != "t1" {
		t.Errorf("trace header = %q, %v, want t1", got, err)
	}
}

func TestMACAddressGoesWhereTheVersionWantsIt(t *testing.T) {
	for version, containerWide := range map[string]bool{"1.43": true, "1.44": false} {
		var body struct {
			Image, MacAddress string
			NetworkingConfig  struct {
				EndpointsConfig map[string]struct{ MacAddress string }
			}
		}
		c := daemon(t, version, func(w http.ResponseWriter, r *http.Request) {
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			fmt.Fprint(w, `{"Id":"x"}`)
		})
		mac := network.HardwareAddr{2, 0, 0, 0, 0, 1}
		req := client.CreateContainer{
			Config: &container.Config{Image: "i"}, MacAddress: mac.String(),
			Networking: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"n": {MacAddress: mac}}},
		}
		if _, err := c.ContainerCreate(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		endpoint := body.NetworkingConfig.EndpointsConfig["n"].MacAddress
		if (body.MacAddress == mac.String()) != containerWide || (endpoint == mac.String()) == containerWide || body.Image != "i" {
			t.Errorf("version %s: body %+v, want the address container-wide: %v", version, body, containerWide)
		}
	}
}

func TestAttachTakesTheConnectionOver(t *testing.T) {
	c := daemon(t, "1.44", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "tcp" || r.URL.Query().Get("stream") != "1" {
			t.Errorf("request %s with headers %v, want an upgrade", r.URL, r.Header)
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		// The first output comes together with the headers.
		fmt.Fprint(buf, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ")
		_ = buf.Flush()
		in, err := io.ReadAll(bufio.NewReader(conn)) // until our half is closed
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(conn, "got %q", in)
	})
	st, err := c.ContainerAttach(t.Context(), "x", client.AttachContainer{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if !st.Multiplexed(true) {
		t.Error("stream counts as raw, want multiplexed as the daemon said")
	}
	if _, err := io.WriteString(st, "input"); err != nil {
		t.Fatal(err)
	}
	if err := st.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(st); err != nil || string(out) != `early got "input"` {
		t.Errorf("output = %q, %v, want everything after the headers", out, err)
	}
}

func TestAttachReportsARefusal(t *testing.T) {
	c := daemon(t, "1.44", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"message":"container is paused"}`)
	})
	if _, err := c.ContainerAttach(t.Context(), "x", client.AttachContainer{}); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("attach = %v, want a conflict", err)
	}
}

func TestWaitReturnsBeforeTheContainerEnds(t *testing.T) {
	end := make(chan struct{})
	c := daemon(t, "1.44", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-end
		fmt.Fprint(w, `{"StatusCode":7}`)
	})
	ch, err := c.ContainerWait(t.Context(), "x", container.WaitConditionNextExit)
	if err != nil {
		t.Fatal(err)
	}
	close(end)
	if res := <-ch; res.StatusCode != 7 || res.Err != nil {
		t.Errorf("result = %+v, want status 7", res)
	}
}

func TestWaitSaysWhenTheDaemonGoesAway(t *testing.T) {
	c := daemon(t, "1.44", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	ch, err := c.ContainerWait(t.Context(), "x", "")
	if err != nil {
		t.Fatal(err)
	}
	if res := <-ch; res.Err == nil || !strings.Contains(res.Err.Error(), "hung up") {
		t.Errorf("result = %+v, want that the daemon hung up", res)
	}
}

func TestDiskUsageOfOldDaemonsIsConverted(t *testing.T) {
	c := daemon(t, "1.41", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"LayersSize":100,"Images":[{"Size":60,"SharedSize":10,"Containers":1},{"Size":40,"SharedSize":0,"Containers":0}],
			"Containers":[{"SizeRw":5,"State":"running"},{"SizeRw":7,"State":"exited"}],
			"Volumes":[{"UsageData":{"RefCount":1,"Size":3}},{"UsageData":{"RefCount":0,"Size":4}}]}`)
	})
	du, err := c.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := du.ImageUsage; i.TotalSize != 100 || i.ActiveCount != 1 || i.Reclaimable != 50 || i.TotalCount != 2 {
		t.Errorf("images = %+v", i)
	}
	if u := du.ContainerUsage; u.TotalSize != 12 || u.ActiveCount != 1 || u.Reclaimable != 7 {
		t.Errorf("containers = %+v", u)
	}
	if u := du.VolumeUsage; u.TotalSize != 7 || u.ActiveCount != 1 || u.Reclaimable != 4 {
		t.Errorf("volumes = %+v", u)
	}
}

func TestPlatformNeedsADaemonThatKnowsIt(t *testing.T) {
	c := daemon(t, "1.41", func(http.ResponseWriter, *http.Request) { t.Error("the daemon was asked, want a refusal before") })
	if _, err := c.ImageHistory(t.Context(), "x", "linux/arm64"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("error = %v, want an invalid argument", err)
	}
}

func TestBadHostsAreRefused(t *testing.T) {
	for _, host := range []string{"foo://x", "unix://", "nothing", "ssh://", "ssh://u:secret@h", "ssh://-oProxyCommand=x", "ssh://-l@h"} {
		_, err := client.New(client.Options{Host: host})
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("New(%q) = %v, want an invalid argument", host, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("New(%q) = %v, which holds the password", host, err)
		}
	}
}

// TestSSHHostSpeaksThroughDialStdio stands in for ssh with a script that joins its streams to the
// socket, and records how it was called.
func TestSSHHostSpeaksThroughDialStdio(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" > " + dir + "/args\necho 'no such host' >&2\nexit 255\n"
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c, err := client.New(client.Options{Host: "ssh://me@far:2222/run/x.sock"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Ping(context.Background())
	if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("error = %v, want unavailable with the words of ssh", err)
	}
	args, _ := os.ReadFile(filepath.Join(dir, "args"))
	if want := "-o ConnectTimeout=30 -T -l me -p 2222 -- far docker --host 'unix:///run/x.sock' system dial-stdio\n"; string(args) != want {
		t.Errorf("ssh was called with %q, want %q", args, want)
	}
}
