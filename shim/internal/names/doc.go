// Package names answers DNS for one container, at 127.0.0.11 of its netns: the names of its
// networks from files that the engine renders (strata/pkg/names), everything else from
// upstream servers, which it asks from the netns of the shim. Nothing of it needs a daemon.
//
// It refuses to know how names come about and what a container is.
//
// Invariants:
//   - A container without a names file costs nothing: no goroutine, no socket.
//   - What a container asks never reaches more than bounded memory: queries under way,
//     connections, cached answers and the length of a query all have a limit, and a query
//     over it is answered SERVFAIL or dropped.
//   - An answer of an upstream is taken only if it repeats id and question, on a socket of
//     a random port of its own.
//   - Names of the networks are never asked for upstream, whatever the type.
//
// Start reading at [Start], then answer.go (our names), forward.go (the others'), cache.go.
//
// Sources: RFC 1035, 2308 (negative answers), 6891 (EDNS), 2782 (SRV), 7766 (TCP).
package names
