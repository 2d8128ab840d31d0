// Package cacheformat reads and writes the format in which BuildKit gives its cache away: a
// manifest of layers whose configuration says which keys they stand for.
//
// The keys are ours: tools that list, copy or prune such caches work, but neither builder finds
// its steps in a cache of the other. The package refuses to know where blobs come from and go.
//
// Source: moby/buildkit cache/remotecache/v1/spec.go.
package cacheformat
