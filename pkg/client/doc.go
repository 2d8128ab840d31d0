// Package client speaks the Docker Engine API as its caller: to engined, and to any
// other daemon that serves the same API.
//
// It owns the connection (unix socket, tcp with or without TLS, a pipe through ssh),
// the negotiation of the API version, the hijacked streams of attach and exec, and the
// mapping of HTTP answers to error classes. It refuses to know flags, terminals, tables and
// configuration files: those are the CLI's.
//
// Invariants:
//   - Messages are the types of github.com/moby/moby/api, whatever version was negotiated;
//     where an older daemon answers in an older shape, the method converts.
//   - Every failed answer is an *Error that wraps a class of containerd/errdefs; a daemon that cannot
//     be reached is a *ConnectError of class ErrUnavailable.
//   - A Client is safe for concurrent use. It opens no connection until the first call.
//
// Start reading at Client (client.go), then dial.go and hijack.go. The methods are grouped by
// resource in files named after it.
package client
