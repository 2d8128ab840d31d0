// Package term prepares a terminal for a program that runs elsewhere: raw mode, its size,
// news of size changes, and the key sequence that detaches.
//
// It refuses to know connections and commands. It keeps no state of the process: whoever
// changes a terminal holds the function that puts it back.
//
// Start reading at MakeRaw and DetachReader.
package term
