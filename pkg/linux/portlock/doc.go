// Package portlock holds ports of the host against other processes while the packets for
// them go elsewhere (to a container, by NAT).
//
// A lock is a bound socket that receives nothing: TCP ones listen, because only a
// listening socket refuses every later bind, and carry a filter that drops what arrives.
// The lock ends with the process; what the kernel does with the packets does not.
//
// lock.go locks, packets.go takes UDP ports to answer, owner.go says which process is in
// the way. Source: socket(7) (SO_ATTACH_FILTER), ip(7), tcp(7), udp(7).
package portlock
