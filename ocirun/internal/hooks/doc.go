// Package hooks runs the hooks of a spec in the runtime's own namespaces: prestart,
// createRuntime, poststart and poststop. Those that belong into the container's are
// part of the plan.
//
// A hook gets the container's state as JSON on its standard input. It is killed when
// its timeout is over. Source: runtime-spec v1.3 config.md#posix-platform-hooks.
package hooks
