package shim_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/pkg/jsonlog"
	"strata/pkg/shimio"
	"strata/pkg/stdcopy"
)

// logText returns the text of a stream in a log with its rotated files.
func logText(t *testing.T, path, stream string) string {
	t.Helper()
	var files []string
	for n := 9; n >= 1; n-- {
		plain, _ := jsonlog.Rotated(path, n)
		files = append(files, plain)
	}
	var text strings.Builder
	for _, name := range append(files, path) {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			if !bytes.HasSuffix(line, []byte("\n")) {
				break // it is being written
			}
			r, err := jsonlog.Decode(line)
			if err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
			if r.Stream == stream {
				text.Write(r.Text)
			}
		}
	}
	return text.String()
}

func TestClientAttachedBeforeStartMissesNothing(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("talker", "seq 1 200000; seq 1 1000 >&2; printf end")
	s := d.start(b)
	s.create(b, b.uri().String())
	conn, reply := attach(t, b.uri().Socket, shimio.Hello{Stdout: true, Stderr: true})
	if reply.Terminal {
		t.Error("reply says terminal")
	}
	onlyErr, _ := attach(t, b.uri().Socket, shimio.Hello{Stderr: true})
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	var out, errs, errs2 bytes.Buffer
	if _, err := stdcopy.Demux(&out, &errs, conn); err != nil {
		t.Fatal(err)
	}
	if _, err := stdcopy.Demux(nil, &errs2, onlyErr); err != nil {
		t.Fatal(err)
	}
	var want, wantErr strings.Builder
	for i := range 200000 {
		fmt.Fprintln(&want, i+1)
	}
	for i := range 1000 {
		fmt.Fprintln(&wantErr, i+1)
	}
	want.WriteString("end")
	if out.String() != want.String() || errs.String() != wantErr.String() || errs2.String() != wantErr.String() {
		t.Errorf("attached: %d and %d bytes, want %d and %d", out.Len(), errs.Len(), want.Len(), wantErr.Len())
	}
	s.wait(b, "")
	if got := logText(t, b.uri().LogPath, "stdout"); got != want.String() {
		t.Errorf("log has %d bytes of stdout, want %d", len(got), want.Len())
	}
	s.finish(b)
	if _, err := os.Stat(b.uri().Socket); err == nil {
		t.Error("attach socket is left after Delete")
	}
}

func TestLogIsCompleteWhenTheExitIsKnown(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("complete", "seq 1 50000")
	s := d.start(b)
	s.run(b, b.uri(func(u *shimio.URI) { u.MaxSize, u.MaxFile = 400_000, 20 }).String())
	s.wait(b, "")
	text := logText(t, b.uri().LogPath, "stdout")
	if !strings.HasSuffix(text, "\n50000\n") {
		t.Errorf("log ends with %q", text[max(0, len(text)-20):])
	}
	if files, _ := filepath.Glob(b.uri().LogPath + ".*"); len(files) < 5 {
		t.Errorf("%d rotated files", len(files))
	}
	s.finish(b)
}

func TestLoggingGoesOnWithoutClientsAndDaemons(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("alone", "seq 1 100000; sleep 1; echo last")
	s := d.start(b)
	s.create(b, b.uri().String())
	conn, _ := attach(t, b.uri().Socket, shimio.Hello{Stdout: true})
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	_ = conn.Close() // gone without a word
	d.down()
	waitFor(t, "the last line", func() bool { return strings.HasSuffix(logText(t, b.uri().LogPath, "stdout"), "\nlast\n") })
	d.up()
	s.wait(b, "")
	s.finish(b)
}

func TestSlowClientSlowsTheProcessAndLosesNothing(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("slow", "seq 1 300000; echo done >/tmp/done")
	s := d.start(b)
	s.create(b, b.uri().String())
	conn, _ := attach(t, b.uri().Socket, shimio.Hello{Stdout: true})
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	done := filepath.Join(b.dir, "rootfs/tmp/done")
	time.Sleep(300 * time.Millisecond) // nothing to wait for: the process must not get on
	if _, err := os.Stat(done); err == nil {
		t.Error("the process ended while its client did not read")
	}
	var out bytes.Buffer
	if _, err := stdcopy.Demux(&out, nil, conn); err != nil || !strings.HasSuffix(out.String(), "\n300000\n") || strings.Count(out.String(), "\n") != 300000 {
		t.Errorf("client got %d bytes, %v", out.Len(), err)
	}
	s.wait(b, "")
	s.finish(b)
}

func TestBytesAreDeliveredAfterDeleteToAClientThatReadsLate(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("late", "head -c 40000 /dev/zero")
	s := d.start(b)
	s.create(b, b.uri(func(u *shimio.URI) { u.LogPath = "" }).String())
	conn, _ := attach(t, b.uri().Socket, shimio.Hello{Stdout: true})
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	s.wait(b, "")
	s.deleteTask(b)
	s.must("Shutdown", &task.ShutdownRequest{ID: b.id}, &emptypb.Empty{})
	if n, err := stdcopy.Demux(nil, nil, conn); n != 40000 || err != nil {
		t.Errorf("client got %d bytes, %v; want 40000", n, err)
	}
	s.gone()
}

func TestStdinModes(t *testing.T) {
	for _, tc := range []struct {
		name string
		mode shimio.StdinMode
	}{
		{"once: the first client's half-close ends stdin", shimio.StdinOnce},
		{"keep: stdin stays open across clients", shimio.StdinKeep},
		{"none: the process reads /dev/null", shimio.StdinNone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDaemon(t)
			b := d.newBundle("in"+string(tc.mode), "cat; echo eof; sleep 100")
			s := d.start(b)
			s.create(b, b.uri(func(u *shimio.URI) { u.Stdin = tc.mode }).String())
			hello := shimio.Hello{Stdin: true, Stdout: true}
			conn, _ := attach(t, b.uri().Socket, hello)
			s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
			if _, err := conn.Write([]byte("one\n")); err != nil {
				t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			log := func() string { return logText(t, b.uri().LogPath, "stdout") }
			switch tc.mode {
			case shimio.StdinOnce:
				waitFor(t, "the end of stdin", func() bool { return log() == "one\neof\n" })
			case shimio.StdinKeep:
				waitFor(t, "the echo", func() bool { return log() == "one\n" })
				_ = conn.Close()
				again, _ := attach(t, b.uri().Socket, hello)
				if _, err := again.Write([]byte("two\n")); err != nil {
					t.Fatal(err)
				}
				waitFor(t, "the second echo", func() bool { return log() == "one\ntwo\n" })
				s.must("CloseIO", &task.CloseIORequest{ID: b.id, Stdin: true}, &emptypb.Empty{})
				waitFor(t, "the end of stdin", func() bool { return log() == "one\ntwo\neof\n" })
			case shimio.StdinNone:
				waitFor(t, "the end of stdin", func() bool { return log() == "eof\n" })
			}
			s.kill(b)
			s.wait(b, "")
			s.finish(b)
		})
	}
}

func TestTerminalAttachResizeAndDetachKeys(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("tty", "stty size; read x; stty size; echo got $x; sleep 100", withTerminal)
	s := d.start(b)
	req := s.createRequest(b, b.uri(func(u *shimio.URI) { u.Stdin = shimio.StdinKeep }).String())
	req.Terminal = true
	s.must("Create", req, &task.CreateTaskResponse{})
	s.must("ResizePty", &task.ResizePtyRequest{ID: b.id, Width: 91, Height: 17}, &emptypb.Empty{})
	conn, reply := attach(t, b.uri().Socket, shimio.Hello{Stdin: true, Stdout: true, DetachKeys: []byte{16, 17}})
	if !reply.Terminal {
		t.Error("reply does not say terminal")
	}
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	if _, err := conn.Write([]byte("h\x10i\n")); err != nil {
		t.Fatal(err)
	}
	log := func() string { return logText(t, b.uri().LogPath, "stdout") }
	waitFor(t, "the answer", func() bool { return strings.Contains(log(), "got h\x10i\r\n") })
	if !strings.Contains(log(), "17 91\r\n") {
		t.Errorf("size of the terminal: %q", log())
	}
	for _, half := range []string{"\x10", "\x11"} {
		if _, err := conn.Write([]byte(half)); err != nil {
			t.Fatal(err)
		}
	}
	if got := readAll(t, conn); !strings.Contains(got, "17 91\r\n") { // raw, and ends by the keys
		t.Errorf("client got %q", got)
	}
	var state task.StateResponse
	s.must("State", &task.StateRequest{ID: b.id}, &state)
	if state.GetExitedAt() != nil {
		t.Error("the detach keys ended the process")
	}
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestExecHasItsOwnSocketAndLog(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("host", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	u := shimio.URI{Socket: filepath.Join(b.dir, "e.sock"), Stdin: shimio.StdinOnce}
	s.addExec(b, "ex", "tr a-z A-Z; exit 9", u.String())
	conn, _ := attach(t, u.Socket, shimio.Hello{Stdin: true, Stdout: true, Stderr: true})
	if _, err := conn.Write([]byte("hello")); err != nil { // before there is a process
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	s.must("Start", &task.StartRequest{ID: b.id, ExecID: "ex"}, &task.StartResponse{})
	var out bytes.Buffer
	if _, err := stdcopy.Demux(&out, nil, conn); err != nil || out.String() != "HELLO" {
		t.Errorf("exec said %q, %v", out.String(), err)
	}
	if got := s.wait(b, "ex"); got != 9 {
		t.Errorf("exit = %d, want 9", got)
	}
	s.must("Delete", &task.DeleteRequest{ID: b.id, ExecID: "ex"}, &task.DeleteResponse{})
	if _, err := os.Stat(u.Socket); err == nil {
		t.Error("attach socket is left after Delete")
	}
	// An exec that was added and never started can go, too.
	s.addExec(b, "never", "true", shimio.URI{Socket: u.Socket}.String())
	s.must("Delete", &task.DeleteRequest{ID: b.id, ExecID: "never"}, &task.DeleteResponse{})
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestExecDoesNotWaitForItsBackgroundChildren(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("bg", "sleep 100")
	s := d.start(b)
	s.run(b, "")
	u := shimio.URI{Socket: filepath.Join(b.dir, "e.sock"), LogPath: filepath.Join(b.dir, "e.log")}
	s.addExec(b, "ex", "sleep 50 & echo hi", u.String())
	conn, _ := attach(t, u.Socket, shimio.Hello{Stdout: true})
	s.must("Start", &task.StartRequest{ID: b.id, ExecID: "ex"}, &task.StartResponse{})
	start := time.Now()
	if got := s.wait(b, "ex"); got != 0 || time.Since(start) > time.Second {
		t.Errorf("exit = %d after %s", got, time.Since(start))
	}
	if got := logText(t, u.LogPath, "stdout"); got != "hi\n" {
		t.Errorf("log = %q when the exit is known", got)
	}
	if n, err := stdcopy.Demux(nil, nil, conn); n != 3 || err != nil { // the connection ends, too
		t.Errorf("client got %d bytes, %v", n, err)
	}
	s.kill(b)
	s.wait(b, "")
	s.finish(b)
}

func TestFIFOsSurviveTheirClient(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("fifos", "cat; echo eof >&2")
	in, out, errs := filepath.Join(b.dir, "in"), filepath.Join(b.dir, "out"), filepath.Join(b.dir, "err")
	for _, path := range []string{in, out, errs} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := d.start(b)
	req := s.createRequest(b, out)
	req.Stdin, req.Stderr = "fifo://"+in, errs
	s.must("Create", req, &task.CreateTaskResponse{})
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	for _, text := range []string{"first", "second"} { // each client opens, talks and goes
		w, err := os.OpenFile(in, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		r, err := os.OpenFile(out, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
			t.Errorf("client read %q, %v", got, err)
		}
		_, _ = w.Close(), r.Close()
	}
	r, err := os.OpenFile(errs, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.must("CloseIO", &task.CloseIORequest{ID: b.id, Stdin: true}, &emptypb.Empty{})
	if got := readAll(t, r); got != "eof\n" {
		t.Errorf("stderr = %q", got)
	}
	if got := s.wait(b, ""); got != 0 {
		t.Errorf("exit = %d", got)
	}
	s.finish(b)
}

func TestFileTakesBothStreams(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("filed", "echo out; echo err >&2")
	s := d.start(b)
	path := filepath.Join(b.dir, "new", "output")
	s.run(b, "file://"+path)
	s.wait(b, "")
	waitFor(t, "the output", func() bool {
		data, _ := os.ReadFile(path)
		return string(data) == "out\nerr\n" || string(data) == "err\nout\n"
	})
	s.finish(b)
}

func TestForeignLoggerGetsItsContract(t *testing.T) {
	for _, scheme := range []string{"binary", "binary-v2"} {
		t.Run(scheme, func(t *testing.T) {
			d := newDaemon(t)
			b := d.newBundle("logged", "echo out; echo err >&2")
			script := filepath.Join(b.dir, "logger.sh")
			body := "#!/bin/sh\nprintf 'r' >&5\nexec 5>&-\n{ echo $CONTAINER_ID $CONTAINER_NAMESPACE $*; cat <&3; cat <&4; } > " + b.dir + "/logged\n"
			if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
				t.Fatal(err)
			}
			s := d.start(b)
			s.run(b, scheme+"://"+script+"?key=value&a=b")
			s.wait(b, "")
			s.finish(b)
			data, err := os.ReadFile(filepath.Join(b.dir, "logged"))
			if want := "logged test a b key value\nout\nerr\n"; err != nil || string(data) != want {
				t.Errorf("logger got %q, %v; want %q", data, err, want)
			}
		})
	}
}

// The shim's logger mode under a shim that knows binary:// only: our own serves as one.
func TestLoggerModeGivesTheSameLogAndSocket(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("foreign", "cat; echo err >&2; exit 6")
	in := filepath.Join(b.dir, "in")
	if err := syscall.Mkfifo(in, 0o600); err != nil {
		t.Fatal(err)
	}
	u := b.uri(func(u *shimio.URI) {
		u.Stdin, u.StdinFIFO, u.Attrs = shimio.StdinOnce, in, map[string]string{"k": "v"}
	})
	s := d.start(b)
	req := s.createRequest(b, u.Binary(shimBinary))
	req.Stdin = in
	s.must("Create", req, &task.CreateTaskResponse{})
	conn, _ := attach(t, u.Socket, shimio.Hello{Stdin: true, Stdout: true, Stderr: true})
	s.must("CloseIO", &task.CloseIORequest{ID: b.id, Stdin: true}, &emptypb.Empty{})
	s.must("Start", &task.StartRequest{ID: b.id}, &task.StartResponse{})
	if _, err := conn.Write([]byte("typed\n")); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	var out, errs bytes.Buffer
	if _, err := stdcopy.Demux(&out, &errs, conn); err != nil || out.String() != "typed\n" || errs.String() != "err\n" {
		t.Errorf("client got %q and %q, %v", out.String(), errs.String(), err)
	}
	if got := s.wait(b, ""); got != 6 {
		t.Errorf("exit = %d, want 6", got)
	}
	s.finish(b)
	if got := logText(t, u.LogPath, "stdout") + logText(t, u.LogPath, "stderr"); got != "typed\nerr\n" {
		t.Errorf("log = %q", got)
	}
	waitFor(t, "the logger to remove its socket", func() bool { _, err := os.Stat(u.Socket); return err != nil })
}

func TestUnknownSchemeIsRefused(t *testing.T) {
	d := newDaemon(t)
	b := d.newBundle("odd", "true")
	s := d.start(b)
	for _, stdout := range []string{"carrier-pigeon:///x", "strata:relative", "binary:///no/such/logger", "relative/fifo", "/no/such/fifo"} {
		if err := s.call("Create", s.createRequest(b, stdout), &task.CreateTaskResponse{}); err == nil {
			t.Errorf("Create with stdout %q succeeded", stdout)
		}
	}
	s.create(b, "") // and left nothing in the way
	s.deleteTask(b)
}
