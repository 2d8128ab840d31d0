package client_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"strata/pkg/client"
)

func TestTLSHostIsVerifiedAndHijacked(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.44")
		if !strings.HasSuffix(r.URL.Path, "/attach") {
			return
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(buf, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		_ = buf.Flush()
		in, _ := io.ReadAll(buf)
		fmt.Fprintf(conn, "got %s", in)
	}))
	defer srv.Close()
	host := "tcp://" + srv.Listener.Addr().String()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c, err := client.New(client.Options{Host: host, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	st, err := c.ContainerAttach(t.Context(), "x", client.AttachContainer{Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := io.WriteString(st, "input"); err != nil {
		t.Fatal(err)
	}
	if err := st.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(st); err != nil || string(out) != "got input" {
		t.Errorf("output = %q, %v, want what came after our half was closed", out, err)
	}
	stranger, err := client.New(client.Options{Host: host, TLS: &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Ping(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("ping of a daemon with an unknown certificate = %v, want a refusal that names the certificate", err)
	}
}
