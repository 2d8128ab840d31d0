package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

// laterCommand is a verb that docker has and engine does not have yet. It says so, and what to do instead.
func laterCommand(name, short, section, remedy string) cliapp.Command {
	return cliapp.Command{
		Name: name, Args: "...", Max: -1, RawArgs: true, Short: short, Section: section, Hidden: section == "",
		Action: func(context.Context, *cli.Context) error {
			return cliapp.Exit(cliapp.StatusUsage, "engine %s: not implemented\n%s", name, remedy)
		},
	}
}

func composeCommand() cliapp.Command {
	return laterCommand("compose", "Define and run applications of several containers (not implemented)", managementSection,
		"use 'docker compose' with DOCKER_HOST set to the socket of engined")
}

func searchCommand() cliapp.Command {
	return laterCommand("search", "Search Docker Hub for images (not implemented)", "",
		"search in the web interface of your registry")
}
