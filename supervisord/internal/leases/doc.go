// Package leases keeps leases: names that hold resources against the garbage
// collector while a client works. Start reading at [Manager].
package leases
