// Package metadb keeps a daemon's records in bbolt: JSON values in named buckets.
//
// It owns opening (with a lock that tells a second daemon apart from a slow one),
// the encoding of values, and nothing else; what the records mean is the caller's.
package metadb
