// Package progress shows the JSON progress streams of pull, push, load and import.
//
// On a terminal, each id has a line that is redrawn in place, with a bar where a total is known;
// elsewhere each change of status is one plain line. It refuses to know where the stream comes from.
//
// Start reading at Show.
package progress
