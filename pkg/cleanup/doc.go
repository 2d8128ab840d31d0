// Package cleanup unwinds half-done operations.
//
// A function that acquires more than one thing pushes the undo of each step onto
// a [Stack], defers Stack.Clean, and calls Stack.Release at its point of no return.
// Undo functions run with [Context], so that they still work when the caller has
// gone away.
package cleanup
