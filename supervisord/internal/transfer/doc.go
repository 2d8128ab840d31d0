// Package transfer moves images: between registries and the image store, between
// archives and the image store, and from layers to snapshots.
//
// It owns the order of things. A document is stored before its children, labelled with
// what it points to, under a lease of its own; so whatever is there when the process dies
// stays until the transfer is tried again or a day has passed, and a name appears only
// when all of its content does. A blob or a snapshot that two transfers want is made once.
// Ingests are named as containerd's clients name them and keep their offset, so that a
// pull goes on where it broke off, also in a later process.
//
// It refuses to know the wire (grpcapi translates) and how a registry is reached
// (pkg/registry).
//
//	pull.go      registry → store: resolve, documents, blobs, unpack in a pipeline
//	unpack.go    layers → snapshots
//	push.go      store → registry
//	archives.go  archive ↔ store
//	flights.go   one worker for what many want
//
// Start reading at [Service.Pull].
package transfer
