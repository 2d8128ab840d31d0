// Package buildkit is the engine's second front door for builds: BuildKit's protocol, as
// docker build, buildx, compose and engine build speak it.
//
// It owns the services Control and LLBBridge (package controlpb and gatewaypb), the options
// of the frontend dockerfile.v0, the stream of what happens in a build, and its history. It
// refuses to know how a build is solved (package build) and where HTTP comes in (httpapi
// hands it connections). A client's own definitions and frontends are refused: every build
// is one of a Dockerfile, by the built-in frontend, whatever its syntax line says. The one
// kind of definition that is understood fetches a repository or a file, for the client to
// look into (fetched.go).
//
// A build takes this way. The client opens a session (package session), on which it serves
// its files; calls Solve with a reference of its own making, and Status with the same. Solve
// either names the frontend, or none: then the client runs the frontend through the bridge,
// and its Return says which result Solve is to export. Either way a [job] makes a
// build.Request of the attributes (options.go), with sources and sinks that are the session
// (source.go, output.go), and its story is what Status streams (story.go).
//
// A result is made once, by the first call that needs it, and stays until its job ends
// ([job.solved]). Its definition is a source that only this engine has (definition.go): a
// client that gives it back builds one target upon another (link.go).
//
// Of the bridge's containers there is one, for a look at a step that has failed (shell.go):
// its process is asked for while Solve runs, and begins when a step fails.
//
// Contexts are kept by package synced.
//
// On disk, below the data root: build/contexts (see synced), buildhistory.db (history.go),
// which clients filter (historyfilter.go).
//
// Start reading at [Service.solve].
package buildkit
