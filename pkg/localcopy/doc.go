// Package localcopy moves trees of files between the client's machine and tar streams, for "cp".
//
// The stream that Extract reads was made in a container, which may be hostile: everything is done
// through an os.Root, so that neither "..", nor an absolute name, nor a symlink of the archive leads out of
// the destination. Files get the permission bits and times of the archive and belong to whoever runs the
// client; devices, sockets and FIFOs are not made.
//
// It refuses to know containers and the API. Start reading at Archive and Extract.
package localcopy
