package buildclient

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func keyFile(t *testing.T, name string, block *pem.Block, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAgentsOfABuildSignAndCannotBeChanged(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(ed, "")
	one := keyFile(t, "ed25519", block, err)
	block, err = ssh.MarshalPrivateKey(rs, "")
	files, err := KeyAgent([]string{one, keyFile(t, "rsa", block, err)})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	for _, key := range []any{ed, rs} {
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = agent.ServeAgent(ring, c)
		_ = c.Close()
	}()
	defer func() { _ = l.Close(); <-served }()
	for name, dial := range map[string]Agent{"of files": files, "at a socket": SocketAgent(socket)} {
		t.Run(name, func(t *testing.T) { checkAgent(t, dial) })
	}
}

func checkAgent(t *testing.T, dial Agent) {
	conn, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := agent.NewClient(conn)
	keys, err := c.List()
	if err != nil || len(keys) != 2 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	for _, k := range keys {
		sig, err := c.Sign(k, []byte("data"))
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Verify([]byte("data"), sig); err != nil {
			t.Errorf("signature by %s: %v", k.Type(), err)
		}
	}
	_, more, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"add": c.Add(agent.AddedKey{PrivateKey: more}), "remove": c.Remove(keys[0]), "remove all": c.RemoveAll(), "lock": c.Lock([]byte("x")), "unlock": c.Unlock([]byte("x")),
	} {
		if err == nil {
			t.Errorf("%s is allowed", what)
		}
	}
	if keys, err := c.List(); err != nil || len(keys) != 2 {
		t.Errorf("keys after that: %v, %v", keys, err)
	}
}

func TestKeyFilesThatCannotBeUsedSayWhy(t *testing.T) {
	pub, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(ed, "", []byte("secret"))
	locked := keyFile(t, "locked", block, err)
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	public, noise := filepath.Join(t.TempDir(), "id.pub"), filepath.Join(t.TempDir(), "noise")
	for file, text := range map[string][]byte{public: ssh.MarshalAuthorizedKey(sshPub), noise: []byte("noise")} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]string{
		locked: "needs a passphrase: add it to an agent (ssh-add " + locked + ")", public: "has a public key", noise: "no private key that is understood",
		filepath.Join(t.TempDir(), "nosuch"): "no such file or directory", t.TempDir(): "is a directory",
	} {
		if _, err := KeyAgent([]string{file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
}
