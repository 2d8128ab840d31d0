// Package sessionpb holds the messages of what a client of BuildKit serves to the daemon in
// its session: files, credentials, secrets, SSH agents, archives, and a place for results.
// See controlpb.
package sessionpb
