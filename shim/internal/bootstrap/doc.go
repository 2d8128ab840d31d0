// Package bootstrap is how a daemon starts a shim: `SHIM … start` reads what the daemon
// wants, makes the socket, leaves a server behind and prints where it is.
//
// Two protocols, told apart by what stands on stdin:
//
//	                since 2.3                     before
//	stdin           BootstrapParams               Any of runtime options, or nothing
//	stdout          BootstrapResult (protobuf)    JSON, or for 1.6 the plain address
//	version         3                             2
//
// Nothing else may reach stdout, nor stderr, which daemons read as one.
//
// The socket is SOCKET_DIR/SHA256(ADDRESS/NAMESPACE/GROUP), mode 0600 in a directory of
// mode 0711 at most; the group is that of a pod (two annotations name it) or the
// container itself, so a pod's containers find the shim of the first. Only root's
// processes are answered (CVE-2020-15257).
//
// Start reading at [Read] and [Listen].
package bootstrap
