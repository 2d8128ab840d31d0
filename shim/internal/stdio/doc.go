// Package stdio holds the standard streams of one process: the ends that the container
// gets, and where the bytes go from the other ends.
//
// Kinds of output: nothing (/dev/null), named pipes (fifo:// or a bare path), a file
// (file://), a logger process (binary://, binary-v2://) and our own (strata://, see
// pkg/shimio): a log file and an attach socket, held by a [Hub]. A terminal replaces the
// pipes by the master of a pseudo-terminal, with the same kinds behind it.
//
// It refuses to know processes' lifecycles: its owner says when the process was started
// ([IO.Started]), has ended ([IO.Ended]) and is deleted ([IO.Close]).
//
// Invariants: an idle stream holds no buffer; the loss of whoever reads never ends the
// process; with strata://, every byte that the process wrote before it ended is in the
// log and in the clients' queues when [IO.Ended] returns.
//
// Start reading at [Open], then [Hub].
package stdio
