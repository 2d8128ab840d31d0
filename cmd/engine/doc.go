// Engine is the command line of the stack: docker's commands, flags, tables and exit statuses,
// spoken to engined or to any daemon that serves the Docker Engine API.
//
// Each verb has a file of its name with one function that returns its cliapp.Command; groups
// ("container", "image", …) list the same functions. session.go holds what all verbs share: the
// streams, the client's configuration and the connection, each opened on first use, so that
// a command pays only for what it needs.
//
// It refuses to know how anything is done: it parses, calls pkg/client, and prints.
//
// Exit statuses: 0; 1 for a failed command; 125 for a command line that could not be read and for a
// run that failed before the container's program; 126 and 127 if that program could not be
// executed or found; 128+N after signal N; else that of the container's program.
//
// Start reading at commands.go, then run.go.
package main
