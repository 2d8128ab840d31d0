package build

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"strata/integration/harness"
)

const callFile = `ARG inherited=box
ARG unused=x
# sfx is a suffix
ARG sfx="usy${inherited}:nosuch"

# first makes it
FROM b${sfx} AS first
# WORD is said
ARG WORD=hello
RUN --mount=type=secret,id=tok,required=true --mount=type=ssh true

FROM nosuch:image AS other
ARG OTHER
RUN --mount=type=secret,id=unused true

# last is what comes of it
FROM scratch AS last
ARG WORD TARGETARCH
ARG NUMBER=1
COPY --from=first /x /
RUN --mount=type=secret,id=k${NUMBER} --mount=type=ssh,id=git,required true
`

// plainCall is an answer without what the clients add to it: where the Dockerfile is, the line
// behind its last one, and spaces at the ends of lines.
func plainCall(text, dir string) string {
	text = strings.ReplaceAll(text, dir+"/", "")
	text = lineOfNothing.ReplaceAllString(text, "")
	return endOfLine.ReplaceAllString(text, "")
}

var (
	lineOfNothing = regexp.MustCompile(`(?m)^ *[0-9]+ \| *\n`)
	endOfLine     = regexp.MustCompile(`(?m) +$`)
)

// calls compares what our client prints of an answer's text with what buildx prints of the
// same answer's data. None needs an image: there are none of these names.
func calls(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": callFile})
	for call, want := range map[string]string{
		"outline": `TARGET:      last
DESCRIPTION: is what comes of it

BUILD ARG   VALUE           DESCRIPTION
inherited   box
sfx         usybox:nosuch   is a suffix
WORD        bye
NUMBER      1

SECRET   REQUIRED
tok      true
k1

SSH       REQUIRED
default
git       true

`,
		"targets": `TARGET         DESCRIPTION
first          makes it
other
last (default) is what comes of it
`,
		"subrequests.describe": "",
	} {
		texts := map[string]string{}
		for _, client := range kitClients {
			r := build(s, client, "--progress=quiet", "--call="+call, "--build-arg", "WORD=bye", dir)
			if r.Code != 0 || want != "" && plainCall(r.Stdout, dir) != plainCall(want, dir) {
				t.Errorf("%s %s:\n%s\nwant\n%s\n%s", client, call, r.Stdout, want, r.Stderr)
			}
			texts[client] = r.Stdout
			r = build(s, client, "--progress=quiet", "--call="+call+",format=json", dir)
			if r.Code != 0 || !json.Valid([]byte(r.Stdout)) {
				t.Errorf("%s %s as JSON: %+v", client, call, r)
			}
		}
		if texts["engine"] != texts["buildx"] {
			t.Errorf("%s: engine says\n%s\nbuildx\n%s", call, texts["engine"], texts["buildx"])
		}
	}
	for name, text := range map[string]string{
		"a warning": "FROM busybox:test as x\n", "two warnings": "FROM busybox:test as x\nMAINTAINER me\n", "nothing": "FROM busybox:test\n",
		"a mistake": "FROM busybox:test as x\nCOPY --from=nosuch${X\n", "a skipped rule": "# check=skip=FromAsCasing\nFROM busybox:test as x\n",
		"an error of a warning": "# check=error=true\nFROM busybox:test as x\n",
	} {
		dir := project(t, map[string]string{"Dockerfile": text})
		var said []harness.Result
		for _, client := range kitClients {
			said = append(said, build(s, client, "--progress=quiet", "--check", dir))
		}
		if plainCall(said[0].Stdout, dir) != plainCall(said[1].Stdout, dir) || said[0].Code != said[1].Code {
			t.Errorf("%s: engine says\n%+v\nbuildx\n%+v", name, said[0], said[1])
		}
		for _, client := range kitClients {
			if r := build(s, client, "--progress=quiet", "--call=check,format=json,ignorestatus=true", dir); !json.Valid([]byte(r.Stdout)) || name == "a warning" && r.Code != 0 {
				t.Errorf("%s: %s as JSON: %+v", client, name, r)
			}
			r := build(s, client, dir)
			if bad := strings.Contains(name, "mistake") || strings.Contains(name, "error"); (r.Code != 0) != bad {
				t.Errorf("%s: build of %s: %+v", client, name, r)
			}
		}
	}
	for _, call := range []string{"outline,format=xml", "outline,x=y", "check,ignorestatus=perhaps", "nosuch"} {
		if r := build(s, "engine", "--call="+call, dir); r.Code == 0 || r.Stderr == "" {
			t.Errorf("--call=%s: %+v", call, r)
		}
	}
}
