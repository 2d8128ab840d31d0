// Package device finds device nodes of the host and their numbers. It refuses to make
// any.
package device
