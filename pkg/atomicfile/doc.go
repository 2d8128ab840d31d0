// Package atomicfile replaces files so that a reader, or a machine that loses
// power, sees the old content or the new, never a part.
package atomicfile
