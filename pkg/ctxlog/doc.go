// Package ctxlog carries a slog.Logger in a context and holds the list of attribute
// keys, so that the four processes name the same thing by the same word.
package ctxlog
