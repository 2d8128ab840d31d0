package buildclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// SocketAgent is the agent at a socket. What a build may do there is to list the keys and to
// sign with them.
func SocketAgent(socket string) Agent {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		far, err := d.DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, err
		}
		return serveAgent(agent.NewClient(far), far), nil
	}
}

// KeyAgent is an agent within this process that has the private keys of files, for
// SocketAgent's two uses. Keys that need a passphrase are an error.
func KeyAgent(files []string) (Agent, error) {
	ring := agent.NewKeyring().(agent.ExtendedAgent) // NewKeyring says that it is one
	for _, file := range files {
		key, err := readKey(file)
		if err != nil {
			return nil, err
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: key, Comment: file}); err != nil {
			return nil, fmt.Errorf("key file %s: %w", file, err)
		}
	}
	return func(context.Context) (net.Conn, error) { return serveAgent(ring, nil), nil }, nil
}

// maxKey bounds a key file, in bytes.
const maxKey = 100 << 10

func readKey(file string) (any, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, fmt.Errorf("key file %s needs a passphrase: add it to an agent (ssh-add %s) and forward that", file, file)
	}
	if err == nil {
		return key, nil
	}
	if _, _, _, _, perr := ssh.ParseAuthorizedKey(text); perr == nil {
		return nil, fmt.Errorf("key file %s has a public key, not a private one", file)
	}
	return nil, fmt.Errorf("key file %s has no private key that is understood: %w", file, err)
}

// serveAgent returns a connection to a, which ends, and far with it, when that is closed.
func serveAgent(a agent.ExtendedAgent, far io.Closer) net.Conn {
	near, own := net.Pipe()
	go func() { // ends with near
		_ = agent.ServeAgent(usedOnly{a}, own) // how it ended nobody asks
		_ = own.Close()
		if far != nil {
			_ = far.Close()
		}
	}()
	return near
}

// usedOnly is an agent without what would change it.
type usedOnly struct{ agent.ExtendedAgent }

var errUsedOnly = errors.New("a build cannot change the agent that is forwarded to it")

// Add implements agent.Agent.
func (usedOnly) Add(agent.AddedKey) error { return errUsedOnly }

// Remove implements agent.Agent.
func (usedOnly) Remove(ssh.PublicKey) error { return errUsedOnly }

// RemoveAll implements agent.Agent.
func (usedOnly) RemoveAll() error { return errUsedOnly }

// Lock implements agent.Agent.
func (usedOnly) Lock([]byte) error { return errUsedOnly }

// Unlock implements agent.Agent.
func (usedOnly) Unlock([]byte) error { return errUsedOnly }

// Extension implements agent.ExtendedAgent.
func (usedOnly) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }
