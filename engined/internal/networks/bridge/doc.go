// Package bridge makes the interfaces of the bridge driver: bridges on the host, veth
// pairs from them into containers' netns, addresses, routes, and the few sysctls that they
// need.
//
// It executes nothing and remembers nothing: what exists is asked of the kernel. It
// refuses to know addresses' owners, ports and firewalls.
//
// host.go is the host's side, port.go the pair and the container's side, sysctl.go the
// knobs, each written only if it differs, and said in the log where it is the host's.
package bridge
