package bridge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"strata/pkg/ctxlog"
)

const sysctlRoot = "/proc/sys/net"

// sysctl writes value to a file below /proc/sys/net unless it is there already. changed is
// true if it was written. Source: kernel Documentation/networking/ip-sysctl.rst.
func sysctl(name, value string) (changed bool, err error) {
	path := filepath.Join(sysctlRoot, name)
	old, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(old)) == value {
		return false, nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return false, fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return true, nil
}

// prepare sets what a new netns gives to interfaces that appear in it. The calling thread
// is inside.
func prepare(ipv6 bool) error {
	// Announce addresses when an interface comes up.
	if _, err := sysctl("ipv4/conf/default/arp_notify", "1"); err != nil {
		return err
	}
	return prepareIPv6(ipv6)
}

func prepareIPv6(on bool) error {
	values := [][2]string{{"disable_ipv6", "1"}}
	if on {
		// Addresses and routes are ours to give; a neighbour's advertisements are not.
		values = [][2]string{{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"ndisc_notify", "1"}}
	}
	for _, v := range values {
		_, err := sysctl("ipv6/conf/default/"+v[0], v[1])
		if errors.Is(err, os.ErrNotExist) && !on {
			return nil // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// disableIPv6 switches IPv6 off on one interface of the calling thread's netns.
func disableIPv6(name string) error {
	_, err := sysctl("ipv6/conf/"+name+"/disable_ipv6", "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

// Forwarding reports whether the host forwards packets of a family between interfaces.
func Forwarding(ipv6 bool) bool {
	data, err := os.ReadFile(filepath.Join(sysctlRoot, forwardingKey(ipv6)))
	return err == nil && strings.TrimSpace(string(data)) == "1"
}

func forwardingKey(ipv6 bool) string {
	if ipv6 {
		return "ipv6/conf/all/forwarding"
	}
	return "ipv4/ip_forward"
}

// Forward makes the host forward packets of a family. changed is true if it did not.
//
// With IPv6, forwarding would stop the host from taking router advertisements, and so its
// own address and default route: interfaces that take them now go on (accept_ra 2).
func Forward(ctx context.Context, ipv6 bool) (changed bool, err error) {
	if Forwarding(ipv6) {
		return false, nil
	}
	if ipv6 {
		if err := keepRouterAdvertisements(ctx); err != nil {
			return false, err
		}
	}
	key := forwardingKey(ipv6)
	if _, err := sysctl(key, "1"); err != nil {
		return false, fmt.Errorf("forwarding is off and cannot be switched on: %w; do it on the host (sysctl -w net/%s=1), or say \"ip-forward\": false in the engine's configuration", err, key)
	}
	ctxlog.From(ctx).Info("forwarding was switched on: a network needs it", "sysctl", "net/"+key)
	return true, nil
}

func keepRouterAdvertisements(ctx context.Context) error {
	files, _ := filepath.Glob(sysctlRoot + "/ipv6/conf/*/accept_ra") // fails only for a bad pattern
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(data)) != "1" {
			continue
		}
		link := filepath.Base(filepath.Dir(f))
		if link == "all" || link == "default" || link == "lo" {
			continue
		}
		if _, err := sysctl("ipv6/conf/"+link+"/accept_ra", "2"); err != nil {
			return err
		}
		ctxlog.From(ctx).Info("router advertisements stay accepted although forwarding is on", ctxlog.Name, link)
	}
	return nil
}

// RouteLocalnet lets the host's packets from 127.0.0.1 leave through a bridge, so that ports
// published on 127.0.0.1 can be reached. Packets for 127.0.0.0/8 that arrive are dropped by
// our firewall table.
func RouteLocalnet(ctx context.Context, name string) error {
	changed, err := sysctl("ipv4/conf/"+name+"/route_localnet", "1")
	if changed {
		ctxlog.From(ctx).Debug("route_localnet was set on our bridge", ctxlog.Name, name)
	}
	return err
}

// PrepareIPv6 keeps a bridge of ours from taking advertisements of containers, and with on
// lets it have addresses on a host whose new interfaces have IPv6 switched off. They are good
// at once: while its link-local address is looked for on the wire, which takes a second from
// the first port on, the kernel asks for no neighbour, and what it forwards is lost (Linux
// net/ipv6/ndisc.c, ndisc_send_ns).
func PrepareIPv6(name string, on bool) error {
	values := [][2]string{{"accept_ra", "0"}}
	if on {
		values = append(values, [2]string{"accept_dad", "0"}, [2]string{"disable_ipv6", "0"})
	}
	for _, v := range values {
		_, err := sysctl("ipv6/conf/"+name+"/"+v[0], v[1])
		if errors.Is(err, os.ErrNotExist) && !on {
			return nil // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Filtered reports whether br_netfilter passes bridged packets of a family through the hooks
// of IP, as Docker and Kubernetes want it.
func Filtered(ipv6 bool) bool {
	key := "bridge/bridge-nf-call-iptables"
	if ipv6 {
		key = "bridge/bridge-nf-call-ip6tables"
	}
	data, err := os.ReadFile(filepath.Join(sysctlRoot, key))
	return err == nil && strings.TrimSpace(string(data)) == "1"
}
