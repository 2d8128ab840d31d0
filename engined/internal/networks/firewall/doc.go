// Package firewall owns one nftables table: published ports, isolation between networks,
// masquerade. It writes no other table and executes no program.
//
// The chains and rules are a fixed skeleton (skeleton.go); whatever changes is an element
// of a map or set (element.go), so a container costs one small transaction, and a packet
// one hash lookup, however many ports are published. The wanted state is kept in memory:
// Text renders all of it (golden-tested, and compared with what nft(8) reads back), and
// Restore puts it into the kernel in one transaction, whatever was there before.
//
// monitor.go tells when somebody else changed the table; foreign.go looks, without
// writing, for rules of others that stop our packets.
//
// Needs Linux 5.7: input interface in postrouting, commit 28f8bfd1ac94 ("netfilter:
// Support iif matches in POSTROUTING"); nat chains of family inet are 5.2.
package firewall
