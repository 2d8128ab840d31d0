// Package host says what the engine is and what it runs on: `info` and `version`. It
// only looks; what it finds is never decided upon elsewhere.
package host
