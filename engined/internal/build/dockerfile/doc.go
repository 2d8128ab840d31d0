// Package dockerfile turns a Dockerfile into a graph of filesystem states.
//
// It owns the language: BuildKit's parser reads the text, and what an instruction means is
// said here, once: stages, arguments, expansion, inheritance, triggers, and the image's
// configuration and history. It refuses to know how a state is made, where it is kept and
// what is in the build context: it touches no file and asks only what a base image says
// about itself (Options.Base).
//
// A [Vertex] is the state of a root filesystem after one instruction that changes files;
// instructions that change the configuration only make none. The graph has the vertices
// that the target needs and no others.
//
// Start reading at [Compile].
package dockerfile
