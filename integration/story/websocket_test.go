package story

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"strata/integration/harness"
)

// dialWebsocket attaches to a container as a browser's library would.
func dialWebsocket(t *testing.T, s *harness.Stack, path string) *websocket.Conn {
	t.Helper()
	raw, err := net.Dial("unix", s.EngineSocket())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := websocket.NewConfig("ws://engine"+path, "http://elsewhere.example")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := websocket.NewClient(cfg, raw)
	if err != nil {
		t.Fatalf("handshake for %s: %v", path, err)
	}
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// readAll returns what the engine sends until it ends the connection.
func readAll(t *testing.T, conn *websocket.Conn) string {
	t.Helper()
	data, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("read from the websocket: %v", err)
	}
	return string(data)
}

func TestAttachOverAWebsocketHonoursTheStreams(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	const script = "read line; echo out $line; echo err $line >&2"
	for _, tt := range []struct{ name, version, query, want string }{
		{"all", "1.43", "stdin=1&stdout=1&stderr=1", "out word\nerr word\n"},
		{"stderr only", "1.43", "stdin=1&stderr=1", "err word\n"},
		{"old clients get all", "1.41", "stderr=1", "out word\nerr word\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := s.For(t)
			id := s.OK("docker", "create", "-i", "busybox:test", "sh", "-c", script)
			conn := dialWebsocket(t, s, "/v"+tt.version+"/containers/"+id+"/attach/ws?stream=1&"+tt.query)
			s.OK("docker", "start", id)
			if _, err := conn.Write([]byte("word\n")); err != nil {
				t.Fatal(err)
			}
			got := readAll(t, conn)
			if tt.want == "out word\nerr word\n" { // two pipes: either may come first
				if len(got) != len(tt.want) || !strings.Contains(got, "out word\n") || !strings.Contains(got, "err word\n") {
					t.Errorf("the websocket said %q, want %q in any order", got, tt.want)
				}
			} else if got != tt.want {
				t.Errorf("the websocket said %q, want %q", got, tt.want)
			}
			again := dialWebsocket(t, s, "/v"+tt.version+"/containers/"+id+"/attach/ws?logs=1&"+tt.query)
			if got := readAll(t, again); len(got) != len(tt.want) {
				t.Errorf("with logs=1 the websocket said %q, want %q", got, tt.want)
			}
			s.OK("docker", "rm", id)
		})
	}
}

func TestAWebsocketThatClosesEndsStdin(t *testing.T) {
	s := harness.New(t)
	s.LoadBusybox()
	id := s.OK("docker", "create", "-i", "busybox:test", "cat")
	conn := dialWebsocket(t, s, "/v1.43/containers/"+id+"/attach/ws?stream=1&stdin=1&stdout=1")
	s.OK("docker", "start", id)
	if _, err := conn.Write([]byte("echo\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "echo\n" {
		t.Errorf("cat sent back %q, %v", buf, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if out := s.OK("docker", "wait", id); out != "0" {
		t.Errorf("cat ended with %s, want 0", out)
	}
	r := s.Run(s.Host("curl", "-sS", "--unix-socket", s.EngineSocket(), "-w", " %{http_code}", "http://engine/containers/"+id+"/attach/ws?stream=1"))
	if !strings.HasSuffix(r.Stdout, " 400") || !strings.Contains(r.Stdout, "no websocket handshake") {
		t.Errorf("a request that is no handshake got %+v", r)
	}
	r = s.Run(s.Host("curl", "-sS", "--unix-socket", s.EngineSocket(), "-w", " %{http_code}", "-H", "Upgrade: websocket", "-H", "Connection: Upgrade", "http://engine/containers/nobody/attach/ws?stream=1"))
	if !strings.HasSuffix(r.Stdout, " 404") {
		t.Errorf("an attach to nobody got %+v", r)
	}
}
