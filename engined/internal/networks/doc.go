// Package networks gives containers their network: definitions (bridge, host, none,
// user-defined), addresses, netns, veth pairs, published ports, names.
//
// It owns every network interface, named netns, nftables element and address that the
// engine makes, and removes what belongs to no container. It refuses to know images,
// tasks and specs: a container is an id and a request here.
//
// Mechanisms live below it: ipam (addresses, no kernel), bridge (netlink), firewall
// (nftables, one table of our own), ports (host ports, held open), etcfiles (hosts,
// resolv.conf), dnsport (port 53 inside). A netns is a named file made before the task and kept until the container
// leaves, so that a restart by the supervisor finds the same addresses with the engine down.
//
// Definitions are in engine.db. A sandbox is a file below EXECROOT/sandboxes (tmpfs): written
// as an intent before anything is made, and as ready after; New takes over what is ready and
// undoes the rest. Nothing is fsynced when a container starts.
//
// Start reading at Manager.Join (join.go); then publish.go (ports), connect.go (a running
// container's networks), state.go (what survives), definitions.go (network create and rm),
// names.go (files), resolver.go (what the shims answer DNS from). docs/networking.md tells what one finds on the host.
package networks
