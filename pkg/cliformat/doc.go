// Package cliformat prints objects as docker's users know them: aligned tables, Go templates
// ("{{.Names}}", "table {{.ID}}\t{{.Image}}"), JSON, and the indented arrays of inspect.
//
// It owns the template functions and the layout of tables; it refuses to know what a container or an
// image is. A row is a struct whose exported fields are what a template may name; its
// fields stand in alphabetical order, because that is the order of {{json .}}.
//
// Start reading at Table.Write and Inspect.
package cliformat
