// Package shimio is the contract between the engine and whoever holds a container's
// standard streams: our shim, or our logger under a foreign shim.
//
// # The URI
//
// The engine puts a URI into the stdout field of a task or exec (stdin and stderr stay
// empty):
//
//	strata:///run/…/ID/attach.sock?log=/var/…/ID-json.log&max-size=…&stdin=once
//
// The path is the attach socket, which the holder makes (mode 0600) before Create or
// Exec returns and removes at Delete. The query says where lines are logged. With a
// foreign shim the same parameters ride on binary://SHIM?logger=… (see [URI.Binary]),
// and stdin goes through a FIFO that the logger writes to.
//
// # The attach socket
//
// A client connects and sends one frame: a [Hello] as JSON behind its length (4 bytes,
// big endian). The holder answers with one frame, a [Reply]. After that the connection
// is raw: from client to holder the bytes of stdin; from holder to client the output,
// stdcopy frames without a terminal and plain bytes with one, so that the engine can
// splice it to its own client without looking at it. A half-close by the client ends
// stdin if the URI says stdin=once; else the process keeps its stdin open. The holder
// recognises the detach keys and then closes the connection. It closes it too when the
// process has ended and every byte was delivered.
//
// A client that connects before Start misses nothing. A client that stops reading slows
// the process down, as a pipe would; one that is gone does not.
package shimio
