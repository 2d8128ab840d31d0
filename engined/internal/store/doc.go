// Package store keeps the definitions of containers, what became of them, and the engine's
// own id, in engine.db.
//
// A definition exists from the moment that creating is done until the moment that
// removing is decided; there is no state between. What a half-done creation made, and what
// a decided removal has not yet freed, belongs to no definition: the engine sweeps it at
// its next start. A removal that still owes something (anonymous volumes) leaves a
// [Tombstone] in the same transaction.
//
// Buckets (metadb; values are JSON):
//
//	containers  ID   → Definition
//	names       name → ID, without the leading slash
//	states      ID   → State
//	tombstones  ID   → Tombstone
//	engine      "id" → the engine's id
//
// Transactions of concurrent callers share one fsync.
package store
