// Package stdcopy carries stdout and stderr of a process over one byte stream, as the
// Docker Engine API does for attach, exec and logs without a terminal.
//
// A frame is a header of eight bytes and its payload:
//
//	byte 0     stream: 0 stdin, 1 stdout, 2 stderr, 3 an error of the sender
//	bytes 1–3  zero
//	bytes 4–7  length of the payload, big endian
//
// Source: Docker Engine API, "ContainerAttach", section "Stream format". Start reading at
// [Demux].
package stdcopy
