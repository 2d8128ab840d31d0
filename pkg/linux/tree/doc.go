// Package tree measures, copies and flushes directory trees that may be hostile: no
// symlink is followed, every file is reached through the descriptor of its directory.
// Start reading at [Usage] and [Copy].
package tree
