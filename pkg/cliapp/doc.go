// Package cliapp gives a command line on top of urfave/cli/v2 the habits of docker's users.
//
// It owns the table of a command (Command, Flag), the reading of an argument list by that table
// (normalise.go), the help texts (help.go) and the way an error ends the process (Run).
// It refuses to know what any command does.
//
// What urfave/cli/v2 alone would get wrong, and the normaliser mends by rewriting the argument list
// before urfave sees it:
//   - flags after arguments ("rm web -f"), where the command allows them;
//   - flags that belong to the container's program ("run IMAGE cmd -x"), where it does not;
//   - bundles ("-itd"), glued values ("-eA=1", "-p8080:80"), "--flag=value" of booleans;
//   - values with commas ("-e A=1,2"), which stay whole;
//   - "unknown flag: --x" and its relatives, in docker's words and with its exit status 125.
//
// Only the command that was named is handed to urfave, so that start-up does not pay for the others.
//
// Start reading at App.Run.
package cliapp
