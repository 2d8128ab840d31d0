// Package proto is the root of our own protocol definitions: only what the standard
// contracts lack. README.md names every contract of the stack and its owner.
package proto
