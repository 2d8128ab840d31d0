// Package contenttest is the conformance suite of content.Store.
package contenttest
