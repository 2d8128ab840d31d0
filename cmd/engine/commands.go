package main

import (
	"fmt"

	"strata/pkg/cliapp"
	"strata/pkg/term"
	"strata/pkg/version"
)

const (
	commonSection     = "Common Commands"
	managementSection = "Management Commands"
)

// newApp is the whole command line.
func newApp(s *session) *cliapp.App {
	app := &cliapp.App{
		Name:     "engine",
		Short:    "Containers on Linux",
		Flags:    globalFlags(),
		Commands: commands(s),
		Version:  fmt.Sprintf("engine version %s", version.Version),
		Footer:   "Everything that you know from docker works here; 'engine explain CONTAINER' shows what a container is made of.",
		Before:   s.before,
		Stdout:   s.stdout,
		Stderr:   s.stderr,
	}
	if f := s.stdoutFile(); f != nil && term.IsTerminal(f) {
		_, w := term.Size(f)
		app.Width = int(w)
	}
	return app
}

// commands lists the tool's own verbs: those used most, the groups, then the others.
func commands(s *session) []cliapp.Command {
	list := []cliapp.Command{}
	for _, c := range []cliapp.Command{
		runCommand(s), execCommand(s), psCommand(s), buildCommand(s), pullCommand(s), pushCommand(s), imagesCommand(s),
		loginCommand(s), logoutCommand(s), versionCommand(s), infoCommand(s), explainCommand(s), doctorCommand(s),
	} {
		c.Section = commonSection
		list = append(list, c)
	}
	list = append(list,
		builderGroup(s), composeCommand(), containerGroup(s), contextGroup(s), imageGroup(s), networkGroup(s), systemGroup(s), volumeGroup(s),
		attachCommand(s), commitCommand(s), completionGroup(s), cpCommand(s), createCommand(s), diffCommand(s), eventsCommand(s), exportCommand(s),
		historyCommand(s), importCommand(s), inspectCommand(s), killCommand(s), loadCommand(s), logsCommand(s), pauseCommand(s), portCommand(s),
		renameCommand(s), restartCommand(s), rmCommand(s), rmiCommand(s), saveCommand(s), startCommand(s), statsCommand(s), stopCommand(s),
		tagCommand(s), topCommand(s), unpauseCommand(s), updateCommand(s), waitCommand(s),
		searchCommand(), completeCommand(s),
	)
	return list
}

// named gives a command the name that it has in a group.
func named(c cliapp.Command, name string, aliases ...string) cliapp.Command {
	c.Name, c.Aliases = name, aliases
	return c
}

func containerGroup(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "container", Section: managementSection, Short: "Manage containers",
		Commands: []cliapp.Command{
			attachCommand(s), commitCommand(s), cpCommand(s), createCommand(s), diffCommand(s), execCommand(s), exportCommand(s),
			inspectKind(s, "container", "Display detailed information on one or more containers", boolFlag("size", "s", "Display total file sizes")),
			killCommand(s), logsCommand(s), named(psCommand(s), "ls", "list", "ps"), pauseCommand(s), portCommand(s), containerPruneCommand(s),
			renameCommand(s), restartCommand(s), rmCommand(s), runCommand(s), startCommand(s), statsCommand(s), stopCommand(s), topCommand(s),
			unpauseCommand(s), updateCommand(s), waitCommand(s),
		},
	}
}

func imageGroup(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "image", Section: managementSection, Short: "Manage images",
		Commands: []cliapp.Command{
			plain(buildCommand(s)), historyCommand(s), importCommand(s),
			inspectKind(s, "image", "Display detailed information on one or more images", stringFlag("platform", "", "Platform of the image (os[/arch[/variant]])")),
			loadCommand(s), named(imagesCommand(s), "ls", "list"), imagePruneCommand(s), pullCommand(s), pushCommand(s), named(rmiCommand(s), "rm", "remove"),
			saveCommand(s), tagCommand(s),
		},
	}
}
