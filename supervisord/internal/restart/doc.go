// Package restart starts containers again when their restart policy says so. The policy
// is in the labels of the container's record (pkg/restartpolicy), so nobody needs to be
// up but this daemon and the container's shim.
//
// A restart is an intent on disk until it is done:
//
//	STATE/restart/NAMESPACE/ID.json    how to make the task again, and the delay so far
//
// It is written before the old task is deleted and removed when the new one runs, or
// when the restart is called off: by a label that says stopped, by the removal of the
// container, or by somebody else who starts or removes the task meanwhile. A daemon that
// was killed goes on with the intents that it finds.
//
// Start reading at [Manager.Exited] and [Manager.Run].
package restart
