// Package nft watches for changes of nftables, which the library that writes them
// (github.com/google/nftables) does only in part: Watch tells for each change which table
// it touched and who made it. ReadLegacy reads, without writing or loading anything, the
// filter table of the iptables before nftables, which nftables does not show.
//
// Source: Linux include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h; net/netfilter/
// nf_tables_api.c (nf_tables_commit_notify: the header of a notification carries the
// netlink address of the socket that made the change).
package nft
