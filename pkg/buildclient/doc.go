// Package buildclient is the client's end of BuildKit's protocol: it builds Dockerfiles with
// a daemon that speaks it, this stack's or a stock one.
//
// [Run] opens a session, on which the daemon finds what the build needs from here: the
// directories (files.go), secrets, credentials, SSH agents, archives (attach.go), places for
// results (receive.go), and OCI layouts (content.go). It asks for the build with
// Control.Solve and passes on what Control.Status tells. When a step fails it may give the
// caller a shell there (shell.go).
//
// A directory is sent with fsutil's protocol (pkg/buildkit/transfer): the daemon hears what
// each file looks like and asks for the content of those it does not know. What is to be
// ignored the daemon says, as patterns.
//
// The package refuses to know command lines, configuration files, and what a build looks
// like on a terminal. Start reading at [Run].
package buildclient
