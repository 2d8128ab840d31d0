// Package layer turns OCI layer changesets into files and files into changesets
// (image-spec v1.1, layer.md). It knows tar, not compression, digests or stores.
//
// Nothing that an archive says can touch a file outside of the target: a parent directory
// is opened with openat2(2), RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS, or component by
// component without following links; what is made, linked or removed is named by the
// descriptor of its directory and one component.
//
// A layer for the upper directory of an overlay is written there directly, without the
// overlay: whiteouts become devices 0/0, opaque directories get overlay's mark, and a
// parent that only the layers below have is made with their attributes, following their
// symlinks, as overlay's copy-up does.
//
// Start reading at [Apply] and [Diff].
package layer
