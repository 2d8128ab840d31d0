// Package buildkit holds what both ends of BuildKit's protocol need beside its messages: the
// names of headers and metadata keys ([HeaderSessionID] …), how a list of strings becomes
// metadata ([EncodeMetadata]), how bytes go through a stream ([Chunks]), and the details of
// errors ([Source], [Details]).
//
// Facts: BuildKit v0.32.2, session/session.go, session/filesync/filesync.go,
// util/grpcerrors, solver/errdefs.
package buildkit
