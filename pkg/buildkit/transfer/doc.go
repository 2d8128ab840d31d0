// Package transfer sends trees of files with fsutil's protocol, as both ends of a build do:
// the client its context, the engine the result of a local output.
//
// The sender says all names first, each with what it looks like; the receiver asks for the
// content of the files that it lacks, by their number in that list; when it has all, it says
// so. Start reading at [Send].
package transfer
