// Package etcfiles renders the files that a container gets from the engine: /etc/hosts,
// /etc/hostname and /etc/resolv.conf, as docker writes them.
//
// The files are bind-mounted into containers, so that they are rewritten in place: a
// renamed one would stay invisible inside. hosts.go and resolv.go render, write.go writes.
package etcfiles
