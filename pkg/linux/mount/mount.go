package mount

// Mount is {type, source, target, options}, ready to be handed to the kernel. Target
// is relative to the root that it is mounted below, usually empty. Options are the
// words of fstab(5); those that are not flags go to the filesystem.
type Mount struct {
	Type    string
	Source  string
	Target  string
	Options []string
}
