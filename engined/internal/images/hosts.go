package images

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"strata/pkg/atomicfile"
)

// hostDir tells the supervisor, by a hosts.toml on tmpfs, what the engine's configuration
// says about a registry, and returns the directory; "" if it says nothing, or if the
// operator has a file of his own for the host. The file is what containerd reads too, so
// that it works with any supervisor.
//
// Source: containerd docs/hosts.md; dockerd's "registry-mirrors" and "insecure-registries".
func (s *Service) hostDir(host string) (string, error) {
	text := s.hostFile(host)
	if text == "" {
		return "", nil
	}
	if _, err := os.Stat(filepath.Join(s.cfg.HostDir, host)); err == nil {
		return "", nil
	}
	root := filepath.Join(s.cfg.StateDir, "certs.d")
	dir := filepath.Join(root, host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("write registry hosts: %w", err)
	}
	path := filepath.Join(dir, "hosts.toml")
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return root, nil
	}
	if err := atomicfile.Write(path, []byte(text), 0o644, atomicfile.Volatile); err != nil {
		return "", fmt.Errorf("write registry hosts: %w", err)
	}
	return root, nil
}

// hostFile renders the file of a host, or "".
func (s *Service) hostFile(host string) string {
	var b strings.Builder
	insecure := s.insecure(host)
	if host == "docker.io" && len(s.cfg.Mirrors) > 0 {
		fmt.Fprintf(&b, "server = %q\n", "https://registry-1.docker.io")
		for _, m := range s.cfg.Mirrors {
			fmt.Fprintf(&b, "\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", strings.TrimRight(m, "/"))
			if s.insecure(hostOf(m)) {
				b.WriteString("  skip_verify = true\n")
			}
		}
		return b.String()
	}
	if insecure {
		fmt.Fprintf(&b, "server = %q\n\n[host.%q]\n  skip_verify = true\n", "http://"+host, "https://"+host)
	}
	return b.String()
}

func hostOf(url string) string {
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		rest = url
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// insecure reports whether the configuration calls a host insecure, by name or by an
// address of its in a network. Loopback needs no word: registries there are asked what
// they speak.
func (s *Service) insecure(host string) bool {
	if slices.Contains(s.cfg.Insecure, host) {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if slices.Contains(s.cfg.Insecure, name) {
		return true
	}
	var networks []netip.Prefix
	for _, n := range s.cfg.Insecure {
		if p, err := netip.ParsePrefix(n); err == nil {
			networks = append(networks, p)
		}
	}
	if len(networks) == 0 {
		return false
	}
	addrs := []string{name}
	if _, err := netip.ParseAddr(name); err != nil {
		addrs, _ = net.LookupHost(name) // a name that does not resolve is in no network
	}
	return slices.ContainsFunc(addrs, func(a string) bool {
		addr, err := netip.ParseAddr(a)
		return err == nil && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
	})
}
