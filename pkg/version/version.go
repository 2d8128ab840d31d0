// Package version says what was built.
package version

// Version is set by the build from git; see the Makefile.
var Version = "unknown"
