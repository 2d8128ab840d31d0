// Package supervisord is the supervisor daemon: content, snapshots, images, container
// records, tasks and events behind containerd's gRPC API, and what beyond it the engine
// wants (proto/strata/supervisor/v1).
//
// This package is the composition root and nothing else: [Run] builds each part from the
// parts above it and serves until its context ends. Tasks are not the daemon's: they live
// in their shims and go on while it is away.
//
//	ROOT/meta.db, content/, overlayfs/, native/    what survives a reboot
//	ROOT/uuid                                      who we are
//	STATE/io.containerd.runtime.v2.task/           bundles, see internal/shims
//	STATE/s/                                       the shims' sockets
//	STATE/restart/                                 restarts under way, see internal/restart
//	ADDRESS, ADDRESS.ttrpc                         gRPC for clients, ttrpc for shims
//
// Start reading at [Run]; the way of a container is internal/grpcapi/tasks.go →
// internal/tasks/create.go → internal/shims/launch.go.
package supervisord
