package images

// Familiar returns a full reference as users write it.
func Familiar(name string) string { return familiar(name) }
