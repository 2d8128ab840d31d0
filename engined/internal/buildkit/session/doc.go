// Package session is the engine's end of a BuildKit session: a connection on which the
// client of a build is the server, and serves its files, secrets, credentials, agents, and
// places for results.
//
// It owns the connection and the methods on it, one Go method each, with the classes of
// this stack's errors. It refuses to know what a build does with them. Files are handed on
// as packets (see package synced).
//
// A [Session] ends with its connection; calls that are under way fail then.
//
// Start reading at [Manager.Run].
package session
