// Package ports decides which host ports containers get, and holds them: against each
// other by a ledger, against other processes by sockets (pkg/linux/portlock). Packets do
// not pass here, with one exception: where a container lacks the address family that a
// client uses ([::1]:80 of an IPv4-only container), or nobody is to translate, the socket that
// holds the TCP or UDP port anyway relays.
//
// It refuses to know containers beyond the name in a message, and the firewall.
//
// ledger.go reserves; relay.go relays connections, packets.go UDP packets.
package ports
