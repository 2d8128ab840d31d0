// Package shims starts shims, talks to them, finds them again and buries the dead ones.
//
// It owns the bundle of a task and speaks both start protocols of the shim v2 contract:
// BootstrapParams first, the older one (runtime options as Any, a JSON or plain address
// as answer) for a binary that does not understand it. It drives our shim and any
// stock one; of containerd.task.v2 and v3, which differ only in the name of the
// service, it uses what the shim offers.
//
//	STATE/io.containerd.runtime.v2.task/NAMESPACE/ID/     the bundle, mode 0700
//	    config.json       the OCI spec
//	    rootfs/           where the shim mounts
//	    bootstrap.json    {version, address, protocol}: how to find the shim again
//	    shim-binary-path  what to run for its burial; written before the shim starts
//	    log               FIFO that carries the shim's stderr to our log
//	    work              → ROOT/io.containerd.runtime.v2.task/NAMESPACE/ID
//	STATE/io.containerd.runtime.v2.task/NAMESPACE/.ID/    a bundle on its way out
//
// Nothing is synced to disk: STATE is a tmpfs, and a bundle without bootstrap.json is
// recovered by asking the shim binary to start again, which answers with the address of
// the shim that runs already.
//
// The package refuses to know containers, events and restarts. Start reading at
// [Launcher.Launch].
package shims
