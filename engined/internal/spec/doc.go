// Package spec compiles a container's definition into an OCI runtime spec.
//
// It owns docker's defaults (capabilities, masked paths, mounts, devices, seccomp
// profile) and the meaning of every field of Config and HostConfig that ends up in the
// spec. It refuses to know networks, volumes and images: paths, users and namespaces
// arrive resolved in a [Request]. The same Request always gives the same spec; the host
// is read only for devices, capabilities, AppArmor and seccomp support.
//
// Start reading at [Build]; testdata/*.json are the golden specs.
package spec
