// Package netns makes network namespaces that are files: a netns bound to a path lives
// until the file is unmounted, whoever made it and whether or not a process is inside.
//
// It owns the thread discipline that setns(2) and unshare(2) ask for: a goroutine is
// locked to its thread while that is somewhere else, and a thread that cannot be brought
// back is given up. It refuses to know what is inside a netns.
//
// netns.go is all of it. Source: network_namespaces(7), setns(2), unshare(2).
package netns
