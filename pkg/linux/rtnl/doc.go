// Package rtnl sends several rtnetlink requests in one system call and collects their
// answers.
//
// It owns the socket and the matching of answers to requests; messages are built with
// github.com/vishvananda/netlink/nl. Where one request is enough, or an answer has to be
// read, that library does it.
//
// Source: netlink(7), rtnetlink(7), Linux net/netlink/af_netlink.c (netlink_rcv_skb: each
// message of a datagram is handled and acknowledged on its own).
package rtnl
