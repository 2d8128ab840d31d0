// Package facts words what the stores did as containerd's event messages, so that the
// stores themselves know no wire type. It decides nothing. Start reading at [Publish].
package facts
