// Package dockerconfig reads and writes the client's own files, in docker's format and place
// (DOCKER_CONFIG or ~/.docker): config.json with its credentials, and the store of contexts.
//
// It owns the layout of these files and the protocol of credential helpers. It refuses to know the
// Engine API and the command line.
//
// Invariants:
//   - Members of config.json that this package does not know are kept when it is written.
//   - config.json is replaced atomically, with mode 0600.
//   - No error and no String method contains a secret.
//
// Layout:
//
//	config.json
//	contexts/meta/SHA256(name)/meta.json
//	contexts/tls/SHA256(name)/docker/{ca,cert,key}.pem
//
// Start reading at Load and OpenContexts.
package dockerconfig
