// Package gc finds what nothing holds and has it removed: tricolor mark and sweep over
// nodes that other packages describe. It knows no image, no lease and no database.
//
// A [Part] (content, snapshots, leases, …) tells which of its nodes are roots, which may
// be swept, and which nodes a node holds. The [Collector] marks while everybody goes on
// writing; the [Barrier] makes that sound: whoever creates a node, or an edge to one,
// does so inside the barrier and touches the node. The sweep holds the barrier
// exclusively, marks again from what was touched since the mark began, and only then
// removes. An edge that disappears meanwhile leaves garbage for the next round, never a
// dangling reference.
//
// Start reading at [Collector.Collect].
package gc
