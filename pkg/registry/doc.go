// Package registry is a client of OCI distribution registries: resolve, fetch, push.
//
// It owns the way to a registry (hosts.toml files, mirrors, TLS, proxies, plain HTTP for
// loopback), authentication (basic, bearer tokens, identity tokens), and the patience to
// finish: bounded retries with backoff, Retry-After, and ranged requests that go on where
// a transfer broke off, in this process or an earlier one. It refuses to know where bytes
// are kept ([Sink] and io.ReaderAt are the caller's) and what an image is.
//
// Invariants: whatever is fetched is checked against its digest by this package
// (manifests) or by the sink's commit (blobs); credentials live in the memory of one
// [Repository], go to no other origin than the registry's and its token service's, and
// are never logged.
//
// Authentication is our own instead of oras-go's: that one refuses token services on
// private addresses under another name than the registry's, which is how most companies
// run theirs.
//
// Start reading at [Client.Repository]; hosts.go finds the hosts, auth.go answers
// challenges, request.go retries, fetch.go and push.go move bytes.
//
// Source: OCI distribution-spec v1.1; distribution "Token Authentication Specification";
// containerd docs/hosts.md.
package registry
