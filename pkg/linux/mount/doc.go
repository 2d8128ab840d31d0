// Package mount describes mounts and makes them with mount(2) and the new mount API.
package mount
