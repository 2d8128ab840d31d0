package httpapi

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestWebsocketsOfForeignPagesAreRefusedOnTCP(t *testing.T) {
	tcp, unix := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2375}, &net.UnixAddr{Name: "/run/engine.sock", Net: "unix"}
	for _, tt := range []struct {
		name, origin string
		local        net.Addr
		want         int
	}{
		{"a page of elsewhere", "http://evil.example", tcp, http.StatusForbidden},
		{"a page of another port", "http://localhost:8000", tcp, http.StatusForbidden},
		{"no page", "", tcp, 0},
		{"a client that names the engine itself", "http://localhost:2375", tcp, 0},
		{"whoever reaches the unix socket", "http://evil.example", unix, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hr := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, tt.local), http.MethodGet, "http://localhost:2375/", nil)
			if tt.origin != "" {
				hr.Header.Set("Origin", tt.origin)
			}
			got := 0
			if err := sameOrigin(&request{Request: hr}); err != nil {
				got = statusOf(err)
			}
			if got != tt.want {
				t.Errorf("status = %d, want %d", got, tt.want)
			}
		})
	}
}
