package names

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"

	"strata/pkg/atomicfile"
)

// Annotation is the annotation of an OCI spec that holds the absolute path of a [File].
const Annotation = "strata.names"

// Addr is where a container's processes find the server.
var Addr = netip.AddrFrom4([4]byte{127, 0, 0, 11}) //nolint:gochecknoglobals // a constant, if addresses could be

// Port is the port of DNS.
const Port = 53

// File is what one container's server is told.
type File struct {
	// Listen is where the server binds, in the container's netns. If its port is not [Port],
	// a rule in the netns leads from there, so that a container's own DNS server may have
	// port 53 of every address.
	Listen netip.AddrPort `json:"listen"`
	// Upstreams are asked, from the host's netns, what the networks do not know. Without
	// any, ResolvConf names the resolv.conf to take them from; without both, the container
	// is kept from the outside and nobody is asked.
	Upstreams  []netip.AddrPort `json:"upstreams,omitempty"`
	ResolvConf string           `json:"resolvConf,omitempty"`
	Networks   []Membership     `json:"networks,omitempty"`
}

// Membership is a network that the container is on.
type Membership struct {
	Path string `json:"path"` // of a [Network] file, absolute
	// Links are names that this container alone has for members, by their names.
	Links map[string]string `json:"links,omitempty"`
}

// Network is a network's members.
type Network struct {
	Name    string         `json:"name"`
	Subnets []netip.Prefix `json:"subnets,omitempty"`
	Hosts   []Host         `json:"hosts,omitempty"`
}

// Host is a member of a network.
type Host struct {
	ID string `json:"id"` // of the container; the first 12 to 63 characters are names
	// Names are the container's name, then its aliases, which others may have too.
	Names []string     `json:"names"`
	Addrs []netip.Addr `json:"addrs"`
	Ports []Service    `json:"ports,omitempty"` // published or exposed
}

// Service is a port that a container serves.
type Service struct {
	Proto string `json:"proto"` // tcp, udp, sctp
	Port  uint16 `json:"port"`
}

// Read reads the File at path. The error is of class ErrInvalidArgument if it is not one.
func Read(path string) (File, error) {
	var f File
	return f, read(path, &f)
}

func read(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read names: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read names: %q: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Write replaces the file at path by v, a [File] or [Network]. Readers see all of it or
// nothing; a reboot may lose it.
func Write[T File | Network](path string, v T) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode names: %w", err)
	}
	return atomicfile.Write(path, data, 0o600, atomicfile.Volatile)
}
