// Package networks gives containers their network: definitions (bridge, host, none,
// user-defined), addresses, netns, veth pairs, published ports, names.
//
// It owns every network interface, named netns, nftables element and address that the
// engine makes, and removes what belongs to no container. It refuses to know images,
// tasks and specs: a container is an id and a request here.
//
// Mechanisms live below it: ipam (addresses, no kernel), bridge (netlink), firewall
// (nftables, one table of our own), ports (host ports, held open), dns. A netns is a named
// file made before the task and kept until the container is removed or leaves, so that a
// restart by the supervisor finds the same addresses with the engine down.
package networks
