// Package ipam hands out subnets and addresses. It is arithmetic: no kernel, no disk, no
// clock. Who uses an address is the caller's knowledge; after a restart it says Take for
// each one again.
//
// pool.go hands out the addresses of one subnet, subnets.go finds a free subnet.
package ipam
