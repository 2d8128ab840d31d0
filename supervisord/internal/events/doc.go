// Package events distributes what happened: publishers hand in facts, subscribers see
// all that match their filters, in the order of publication. There is no replay.
//
// A slow subscriber never blocks a publisher: its queue is bounded, and a subscriber
// that overflows it is ended with an error of class ErrResourceExhausted, so that it
// resubscribes and reconciles instead of missing a fact silently.
package events
