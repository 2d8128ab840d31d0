// Package build makes images of Dockerfiles.
//
// It owns the solver and its cache. What a Dockerfile means is compiled by the room
// dockerfile into a graph; files are selected and written by the room files; a command
// runs as a container through the same supervisor, shim and runtime as any other.
//
// Every vertex of a graph has two keys. The plain key is made of the definition: the keys
// of what it builds upon, the words of its instruction, and the content of the files that
// it takes from the build context. It is known before anything has run, so that a build in
// which nothing changed asks the cache once and is done. The content key is known when the
// vertices below are solved: a COPY --from has in it what the files are, not how they came
// to be. A record is kept under the content key; the plain key is an alias of it. Equal
// vertices of builds that run at the same time are solved once.
//
// A COPY --link is two records: a layer that is upon nothing, and what comes of placing it
// (link.go).
//
// A result is a committed snapshot of the supervisor, labelled as a root of its collector
// for as long as there is a record. Layers that the image needs are written before the
// commit, and the snapshot is named by its chain id, so that an image that was built is
// unpacked already.
//
// A [Request] has one graph for each platform; what is equal in them is solved once. Files
// come from contexts ([Source]) when a vertex needs them, and only what the graphs take. The
// results become images, an index of them with attestations, archives, or files at the
// client ([Output], [Sink]); records travel in BuildKit's cache format ([CacheOption]) and
// are adopted, layer by layer, where the cache here has missed.
//
// The package refuses to know HTTP, and what a client's terminal looks like: it tells an
// [Observer] what happens.
//
// On disk, below the data root: build.db (package records), build/cache
// (cache mounts), build/tmp (contexts without a name, checkouts of git).
//
// Start reading at [Service.Build].
package build
