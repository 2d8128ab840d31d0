// Package mount describes mounts and makes them: overlay and bind mounts through the
// mount API of Linux 5.2 (fsopen, open_tree, mount_setattr, move_mount), everything
// else, and everything on a kernel that lacks it, through mount(2).
//
// With the mount API an overlay takes its lower directories one by one (lowerdir+,
// Linux 6.7), so that neither the page that mount(2) copies nor the 256 bytes of an
// fsconfig(2) value bound the number of layers (the kernel's own bound is 500); a read-only
// bind mount is never writable, not even between two calls; and a temporary mount needs no
// place in the tree, so that nothing is left of it when the process dies ([WithTemp]).
//
// Start reading at [All].
package mount
