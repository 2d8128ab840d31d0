package harness

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// Terminal runs a command on a pseudo terminal, as a person would.
type Terminal struct {
	t     *testing.T
	cmd   *exec.Cmd
	pty   interface{ Write([]byte) (int, error) }
	size  func(rows, cols uint16) error
	ended chan struct{}

	mu  sync.Mutex
	out strings.Builder
}

// StartTerminal starts cmd on a terminal of 24 rows and 80 columns.
func StartTerminal(t *testing.T, cmd *exec.Cmd) *Terminal {
	t.Helper()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{t: t, cmd: cmd, pty: f, ended: make(chan struct{})}
	term.size = func(rows, cols uint16) error { return pty.Setsize(f, &pty.Winsize{Rows: rows, Cols: cols}) }
	go func() {
		defer close(term.ended)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			term.mu.Lock()
			term.out.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = f.Close()
		<-term.ended
	})
	return term
}

// Type sends keys.
func (term *Terminal) Type(keys string) {
	term.t.Helper()
	if _, err := term.pty.Write([]byte(keys)); err != nil {
		term.t.Fatalf("type %q: %v", keys, err)
	}
}

// Resize changes the size of the window.
func (term *Terminal) Resize(rows, cols uint16) {
	term.t.Helper()
	if err := term.size(rows, cols); err != nil {
		term.t.Fatal(err)
	}
}

// Screen returns all that was shown so far.
func (term *Terminal) Screen() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.out.String()
}

// Expect waits until text has been shown after what earlier calls waited for.
func (term *Terminal) Expect(text string) {
	term.t.Helper()
	if !Eventually(15*time.Second, func() bool { return strings.Contains(term.Screen(), text) }) {
		term.t.Fatalf("the terminal does not show %q, but:\n%s", text, term.Screen())
	}
	term.mu.Lock()
	defer term.mu.Unlock()
	shown := term.out.String()
	term.out.Reset()
	term.out.WriteString(shown[strings.Index(shown, text)+len(text):])
}

// Wait returns the exit code of the command.
func (term *Terminal) Wait() int {
	term.t.Helper()
	timer := time.AfterFunc(15*time.Second, func() {
		term.t.Errorf("%v does not end; the terminal shows:\n%s", term.cmd.Args[2:], term.Screen())
		_ = term.cmd.Process.Kill()
	})
	defer timer.Stop()
	_ = term.cmd.Wait() // the exit code says it
	select {            // what it printed last
	case <-term.ended:
	case <-time.After(2 * time.Second): // somebody else holds the terminal open
	}
	return term.cmd.ProcessState.ExitCode()
}
