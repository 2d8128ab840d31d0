// Package runspec reads the options of run and create, as docker's users write them, into the
// messages of the Engine API.
//
// It owns the grammar of each option (ports, volumes, mounts, networks, limits, devices, health) and
// the rules between them; what only the daemon can know (whether an image or a network exists) it
// refuses to know. Each error names the option's value, and is of class ErrInvalidArgument unless it
// comes from reading a file.
//
// Start reading at Parse; the grammars stand one per file.
package runspec
