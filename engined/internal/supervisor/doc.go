// Package supervisor is engined's client of the supervisor (ours or a stock
// containerd): the only importer of containerd's API and of proto/. It turns wire
// messages into plain structs; everything above it speaks those.
//
// client.go dials; then one file per room: tasks.go, containers.go, events.go,
// images.go, content.go, snapshots.go, transfer.go, explain.go.
package supervisor
