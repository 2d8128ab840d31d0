// Package events is the engine's memory of what happened: a ring of the last events and
// the subscribers of GET /events.
package events
