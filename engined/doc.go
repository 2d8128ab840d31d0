// Package engined is the engine daemon: what developers see. It serves the Docker Engine
// API, keeps the definitions of containers, networks and volumes, and leaves bytes and
// processes to the supervisor.
//
// engined.go is the composition root: the whole object graph on one screen. config.go is
// daemon.json, listen.go the sockets. Everything else is below internal/, and each room
// has a doc.go.
package engined
