package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
)

// The scripts ask "engine __complete" for candidates, so that they never grow old.
const (
	bashCompletion = `_engine() {
    local IFS=$'\n'
    COMPREPLY=($(engine __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        compopt -o default
    elif [[ ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}
complete -F _engine engine
`
	zshCompletion = `#compdef engine
_engine() {
    local -a found
    found=("${(@f)$(engine __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -z "$found" ]]; then
        _files
    else
        compadd -a found
    fi
}
compdef _engine engine
`
	fishCompletion = `function __engine_complete
    set -l words (commandline -opc) (commandline -ct)
    engine __complete $words[2..-1] 2>/dev/null
end
complete -c engine -f -a '(__engine_complete)'
`
)

func completionGroup(s *session) cliapp.Command {
	script := func(shell, text string) cliapp.Command {
		return cliapp.Command{
			Name: shell, Short: "Print the completion script for " + shell,
			Long: fmt.Sprintf("Print the completion script for %s.\n\n%s", shell, completionHint(shell)),
			Action: func(context.Context, *cli.Context) error {
				_, err := fmt.Fprint(s.stdout, text)
				return err
			},
		}
	}
	return cliapp.Command{
		Name: "completion", Short: "Print a completion script for a shell",
		Commands: []cliapp.Command{script("bash", bashCompletion), script("fish", fishCompletion), script("zsh", zshCompletion)},
	}
}

func completionHint(shell string) string {
	switch shell {
	case "bash":
		return "Load it with: source <(engine completion bash)"
	case "fish":
		return "Load it with: engine completion fish | source"
	}
	return `Load it with: source <(engine completion zsh)`
}

// completeCommand prints the candidates for the last of its arguments.
func completeCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "__complete", Args: "WORD...", Max: -1, Hidden: true, RawArgs: true, Short: "Print candidates for a completion",
		Action: func(ctx context.Context, c *cli.Context) error {
			app := newApp(s)
			for _, word := range app.Complete(c.Args().Slice(), func(path []string, position int) []string { return s.names(ctx, path, position) }) {
				fmt.Fprintln(s.stdout, word)
			}
			return nil
		},
	}
}

// completeTimeout is how long a shell may wait for the daemon.
const completeTimeout = 800 * time.Millisecond

// names lists the objects that an argument of a command can be. Errors give no candidates.
func (s *session) names(ctx context.Context, path []string, position int) []string {
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	cl, err := s.api()
	if err != nil {
		return nil
	}
	group, verb := "", path[len(path)-1]
	if len(path) > 1 {
		group = path[0]
	}
	switch {
	case group == "volume":
		return volumeNames(ctx, cl)
	case group == "network" && (position == 0 || verb == "rm" || verb == "inspect"):
		return networkNamesOf(ctx, cl)
	case group == "context":
		return s.contextNames()
	case group == "image", verb == "rmi", verb == "push", verb == "save", verb == "history", verb == "tag":
		return imageNames(ctx, cl)
	case verb == "run", verb == "create":
		if position > 0 {
			return nil
		}
		return imageNames(ctx, cl)
	case verb == "inspect" && group == "":
		return append(containerNamesOf(ctx, cl, verb), imageNames(ctx, cl)...)
	case (verb == "exec" || verb == "top" || verb == "port" || verb == "commit") && position > 0:
		return nil
	case verb == "pull", verb == "load", verb == "import", verb == "login", verb == "logout", verb == "build":
		return nil
	}
	return containerNamesOf(ctx, cl, verb)
}

func containerNamesOf(ctx context.Context, cl *client.Client, verb string) []string {
	running := false
	switch verb {
	case "exec", "attach", "stop", "kill", "pause", "top", "stats":
		running = true
	}
	list, err := cl.ContainerList(ctx, client.ListContainers{All: !running})
	if err != nil {
		return nil
	}
	var out []string
	for _, c := range list {
		if verb == "start" && c.State == "running" {
			continue
		}
		for _, n := range c.Names {
			if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
				out = append(out, n)
			}
		}
	}
	return out
}

func imageNames(ctx context.Context, cl *client.Client) []string {
	list, err := cl.ImageList(ctx, false, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, img := range list {
		for _, t := range img.RepoTags {
			if !strings.HasPrefix(t, none) {
				out = append(out, t)
			}
		}
	}
	return out
}

func volumeNames(ctx context.Context, cl *client.Client) []string {
	list, err := cl.VolumeList(ctx, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, v := range list.Volumes {
		out = append(out, v.Name)
	}
	return out
}

func networkNamesOf(ctx context.Context, cl *client.Client) []string {
	list, err := cl.NetworkList(ctx, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out
}

func (s *session) contextNames() []string {
	out := []string{"default"}
	list, _ := s.contexts().List()
	for _, c := range list {
		out = append(out, c.Name)
	}
	return out
}
