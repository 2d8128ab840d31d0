// Package ocicli runs an OCI runtime by its command line, the one that runc has and that
// crun and ocirun share.
//
// It owns the arguments, the runtime's error text and its output. It refuses to know
// containers' lifecycles and streams. Errors come from the runtime's JSON log (--log), as
// its stderr belongs to the container; their words are the runtime's own, and this is
// the only package that reads meaning out of them.
//
// Start reading at [Runtime.Create].
package ocicli
