// Package userns writes the id maps of user namespaces.
//
// It owns the text of uid_map, gid_map and setgroups, the helpers newuidmap and
// newgidmap for callers without privilege, and namespaces made only to carry a map
// (for id-mapped mounts). It refuses to know containers.
//
// Source: user_namespaces(7), newuidmap(1), mount_setattr(2).
package userns
