// Package names is the contract between the engine, which knows what names containers have,
// and the shim, which answers DNS inside them (127.0.0.11) with the engine up or down.
//
// The engine puts the path of a [File] into the annotation [Annotation] of a container's
// spec, so that it is found by whoever starts the task: also by the supervisor's restart
// policy while the engine is dead. Shims that do not know the annotation ignore it; for
// them the engine writes names into /etc/hosts.
//
// A File is small and one container's own: where to listen, whom to ask about the rest of
// the world, which networks. The members of a network are in a [Network] file which all its
// containers share, so that a container that comes or goes costs one file, however many
// look at it. Both are JSON, replaced by rename; readers look at them again when a stat(2),
// once in a millisecond at most, says that they are others. (No inotify: a user may have
// 128 instances of it.)
//
// Start reading at [File], then [Store.View].
package names
