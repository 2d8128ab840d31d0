// Package images keeps image names: name → descriptor of an index or a manifest. Names
// are opaque here. Start reading at [Store].
package images
