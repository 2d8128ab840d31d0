// Package gatewaypb holds the messages of BuildKit's LLBBridge, with which a client runs a
// frontend by itself: buildx builds through it. See controlpb.
package gatewaypb
