package seccomp

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/pkg/linux/fdpass"
)

// Send hands a listener to the agent at path, with the state of the process.
//
// Source: runtime-spec v1.3 config-linux.md#containerprocessstate.
func Send(path string, st specs.ContainerProcessState, listener *os.File) error {
	st.Fds = []string{specs.SeccompFdName}
	data, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode process state: %w", err)
	}
	sock, err := fdpass.Connect(path)
	if err != nil {
		return fmt.Errorf("failed to connect with seccomp agent: %w", err)
	}
	defer sock.Close()
	if err := fdpass.Send(sock, data, listener); err != nil {
		return fmt.Errorf("send listener to seccomp agent %q: %w", path, err)
	}
	return nil
}
