package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/linux/memfd"
)

// maxOutput is how much of what a hook says goes into an error's message.
const maxOutput = 4 << 10

// Run runs the hooks one after the other with state on their standard input, and stops
// at the first that fails. name is the kind of hook, for the error.
func Run(name string, list []specs.Hook, state []byte) error {
	for i, h := range list {
		if err := run(h, state); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", name, i, err)
		}
	}
	return nil
}

func run(h specs.Hook, state []byte) error {
	in, err := stateFile(state)
	if err != nil {
		return err
	}
	defer in.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	// Without an environment of its own a hook has the runtime's, as with runc.
	p, err := os.StartProcess(h.Path, args, &os.ProcAttr{Files: []*os.File{in, w, w}, Env: h.Env})
	err = errors.Join(err, w.Close())
	if err != nil {
		return err
	}
	said := make(chan []byte, 1) // one result; the reader ends with the hook's last descendant or Close
	go func() {
		var b bytes.Buffer
		_, _ = io.Copy(&b, io.LimitReader(r, maxOutput))
		said <- b.Bytes()
		_, _ = io.Copy(io.Discard, r)
	}()
	if h.Timeout != nil {
		t := time.AfterFunc(time.Duration(*h.Timeout)*time.Second, func() { _ = p.Kill() })
		defer t.Stop()
	}
	st, err := p.Wait()
	if err != nil {
		return err
	}
	if st.Success() {
		return nil
	}
	_ = r.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // a daemon of the hook's may keep the pipe
	return fmt.Errorf("%s: %s, output: %q", h.Path, st, bytes.TrimSpace(<-said))
}

// stateFile holds the state in a nameless file: a hook that does not read it must not
// block the runtime.
func stateFile(state []byte) (*os.File, error) {
	f, err := memfd.New("state")
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(state, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
