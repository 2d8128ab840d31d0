// Package git fetches a commit of a repository with the host's git program.
//
// The repository and its server may be hostile. Git runs with an environment of its own:
// no configuration of the host or of a user, no hooks, no templates, no credential helpers,
// no prompts, and of the transports only http, https, git and ssh. What is checked out is
// for others to read with care: its symlinks may point anywhere.
//
// The package knows no build. Start reading at [Parse] and [Repo.Checkout].
package git
