// Package parent makes the child: it opens what the plan needs, lowers it, clones and
// climbs the ladder (package ladder draws it) until the container is created or the
// exec runs.
//
// It owns what only the parent can do: opening paths of the host, id maps, cgroups,
// limits beyond the child's, hooks in the runtime's namespaces. It refuses to know the
// runtime's state directory and command line. Start reading at run.go.
package parent
