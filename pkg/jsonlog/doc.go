// Package jsonlog is the file format of container logs: Docker's json-file.
//
// One record is one line of JSON:
//
//	{"log":"text\n","stream":"stdout","attrs":{"k":"v"},"time":"2006-01-02T15:04:05.999999999Z"}
//
// A record whose text has no newline at its end is partial: the line goes on in the next
// record of the same stream. Bytes that are not UTF-8 become U+FFFD.
//
// The current file is FILE; rotation renames it to FILE.1, FILE.1 to FILE.2 and so on, so
// that a larger number is older. A compressed file has ".gz" behind its number. The shim
// writes these files and the engine reads them; neither needs the other to be there.
package jsonlog
