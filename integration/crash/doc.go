// Package crash kills processes where it hurts and looks at what a user finds afterwards: at
// each failpoint of pkg/failpoint, at random under load, and for some seconds under log load.
// After a restart every operation can be repeated, nothing is left over, nothing is lost.
package crash
