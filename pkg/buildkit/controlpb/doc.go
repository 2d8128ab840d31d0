// Package controlpb holds the messages of BuildKit's control API: the part of it that this
// stack speaks, generated from .proto files with BuildKit's numbers (`make proto`). Names of
// methods and numbers of fields are the contract; what a message lacks is kept as unknown
// fields.
package controlpb
