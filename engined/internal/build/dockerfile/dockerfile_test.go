package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	v1 "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func testBase(_ context.Context, ref string, p ocispec.Platform) (*Base, error) {
	if ref == "missing" {
		return nil, fmt.Errorf("no such image: %w", errdefs.ErrNotFound)
	}
	b := &Base{Name: ref, ID: "sha256:aa", ChainID: "sha256:bb", Platform: p}
	b.Config.Env = []string{"PATH=/bin"}
	b.Config.Cmd = []string{"sh"}
	if ref == "trigger" {
		b.Config.OnBuild = []string{"COPY . /app", "RUN make"}
	}
	return b, nil
}

func compile(t *testing.T, text string, change ...func(*Options)) (*Plan, error) {
	t.Helper()
	opts := Options{Platform: amd64, Host: amd64, Base: testBase, Args: map[string]string{}}
	for _, c := range change {
		c(&opts)
	}
	return Compile(t.Context(), []byte(text), opts)
}

func mustCompile(t *testing.T, text string, change ...func(*Options)) *Plan {
	t.Helper()
	p, err := compile(t, text, change...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func names(p *Plan) []string {
	var out []string
	for _, v := range p.Vertices {
		out = append(out, v.Name)
	}
	return out
}

func TestStagesThatTheTargetDoesNotNeedAreNotInTheGraph(t *testing.T) {
	const text = "FROM missing AS unused\nRUN nothing\nFROM busybox AS a\nRUN a\nFROM busybox AS b\nRUN b\nFROM scratch\nCOPY --from=a /x /x\n"
	got := names(mustCompile(t, text))
	want := []string{"FROM scratch", "FROM busybox AS a", "RUN a", "COPY --from=a /x /x"}
	if !slices.Equal(got, want) {
		t.Errorf("vertices %q, want %q", got, want)
	}
	if got := names(mustCompile(t, text, func(o *Options) { o.Target = "B" })); !slices.Contains(got, "RUN b") || slices.Contains(got, "RUN a") {
		t.Errorf("target b: vertices %q", got)
	}
}

func TestMistakesNameTheirLine(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"unknown instruction", "FROM a\nRUNN x\n", "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)"},
		{"nothing", "  \n", "cannot be empty"},
		{"no stage", "RUN x\n", "no build stage in current context"},
		{"nothing but arguments", "ARG X\n", "dockerfile contains no stages to build"},
		{"stage that comes later", "FROM a AS x\nCOPY --from=y /a /a\nFROM a AS y\nFROM x\n", `cannot copy from stage "y", it needs to be defined before current stage "x"`},
		{"mount of a stage that comes later", "FROM a AS x\nRUN --mount=from=y,target=/y x\nFROM a AS y\nFROM x\n", `cannot mount from stage "y"`},
		{"variable in --from", "FROM a\nCOPY --from=$X /a /a\n", "variable expansion is not supported for --from"},
		{"variable that no FROM has", "ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} a\n", `failed to parse platform linux/${MYARCH}: "" is an invalid component`},
		{"its near name", "ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} a\n", "(did you mean MY_ARCH?)"},
		{"empty platform", "FROM --platform=$BULIDPLATFORM a\n", "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)"},
		{"cycle", "FROM a AS x\nCOPY --from=y /a /a\nFROM a AS y\nCOPY --from=x /a /a\n", "circular dependency detected on stage: y"},
		{"itself", "FROM a AS x\nCOPY --from=x /a /a\n", "circular dependency detected on stage: x"},
		{"number of a later stage", "FROM a\nCOPY --from=1 /a /a\nFROM a\n", ""},
		{"missing image", "FROM missing\n", "no such image"},
		{"near name", "FROM a AS builder\nFROM a\nCOPY --from=missing /x /x\n", "no stage and no image is called \"missing\""},
		{"several sources to a file", "FROM a\nCOPY a b c\n", "line 2: when using COPY with more than one source file"},
		{"chmod", "FROM a\nCOPY --chmod=999 a b\n", "invalid chmod parameter: '999'"},
		{"copy of a URL", "FROM a\nCOPY http://x/y /\n", "source can't be a URL for COPY"},
		{"blank base", "ARG X\nFROM $X\n", "base name ($X) should not be blank"},
		{"mount at the root", "FROM a\nRUN --mount=type=cache,target=/ x\n", "invalid mount target"},
		{"port", "FROM a\nEXPOSE 99999\n", "invalid containerPort: 99999"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := compile(t, row.text)
			if row.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("error %v, want %q", err, row.want)
			}
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
				t.Errorf("class of %v", err)
			}
		})
	}
	_, err := compile(t, "FROM a\n\nCOPY --from=missing x /\n")
	if e, ok := errors.AsType[*Error](err); !ok || e.Lines != [2]int{3, 3} {
		t.Errorf("lines of %v", err)
	}
}

func TestMissingTargetSuggestsANearName(t *testing.T) {
	_, err := compile(t, "FROM a AS builder\n", func(o *Options) { o.Target = "bilder" })
	if err == nil || !strings.Contains(err.Error(), `(did you mean builder?)`) {
		t.Errorf("error %v", err)
	}
}

func TestArgumentsReachWhereTheyAreDeclared(t *testing.T) {
	p := mustCompile(t, `ARG TAG=1
FROM base:${TAG} AS b
ARG TAG
ARG SET=default
ARG FROMCLI=x
ENV OUT=$TAG-$SET-${FROMCLI:-none}-${NOPE:-fallback}
RUN true
FROM b
ARG TARGETARCH
RUN echo $TARGETARCH
`, func(o *Options) { o.Args["FROMCLI"] = "cli"; o.Args["HTTP_PROXY"] = "http://p" })
	var runs []*Run
	for _, v := range p.Vertices {
		if v.Run != nil {
			runs = append(runs, v.Run)
		}
		if v.Image != nil && v.Image.Name != "base:1" {
			t.Errorf("base %q", v.Image.Name)
		}
	}
	want := []string{"TAG=1", "SET=default", "FROMCLI=cli", "PATH=/bin", "OUT=1-default-cli-fallback", "HTTP_PROXY=http://p", "http_proxy=http://p"}
	if !slices.Equal(runs[0].Env, want) || !slices.Equal(runs[0].Hides, []string{"HTTP_PROXY", "http_proxy"}) {
		t.Errorf("environment %q, want %q", runs[0].Env, want)
	}
	if !slices.Contains(runs[1].Env, "SET=default") || !slices.Contains(runs[1].Env, "TARGETARCH=amd64") {
		t.Errorf("a stage upon that one: environment %q", runs[1].Env)
	}
	if line := p.History[len(p.History)-1].CreatedBy; line != "RUN |4 TAG=1 SET=default FROMCLI=cli TARGETARCH=amd64 /bin/sh -c echo $TARGETARCH # buildkit" {
		t.Errorf("history %q", line)
	}
	other := mustCompile(t, "FROM a\nARG SET=x\nFROM a\nRUN true\n", func(o *Options) { o.AllStages = true })
	for _, v := range other.Vertices {
		if v.Run != nil && slices.Contains(v.Run.Env, "SET=x") {
			t.Error("an argument reached a stage that is not built upon its own")
		}
	}
}

func TestTheTargetIsCalledByItsName(t *testing.T) {
	for _, row := range []struct{ text, target, want string }{
		{"FROM a\nARG TARGETSTAGE\nRUN true\n", "", "TARGETSTAGE=default"},
		{"FROM a AS last\nARG TARGETSTAGE\nRUN true\n", "", "TARGETSTAGE=last"},
		{"FROM a AS one\nARG TARGETSTAGE\nRUN true\nFROM one AS last\n", "one", "TARGETSTAGE=one"},
	} {
		p := mustCompile(t, row.text, func(o *Options) { o.Target = row.target })
		if !slices.ContainsFunc(p.Vertices, func(v *Vertex) bool { return v.Run != nil && slices.Contains(v.Run.Env, row.want) }) {
			t.Errorf("%q: no %s", row.text, row.want)
		}
	}
}

func TestHeredocsOfCopyAreExpandedAndKeepTheirQuotes(t *testing.T) {
	p := mustCompile(t, "FROM a\nARG name=world\nCOPY <<A <<'B' /d/\n'$name' \"${name}\" \\\n\\\\ \\$name\nA\n'$name' \\\nB\n")
	files := p.Target.Copy.Files
	if want := "'world' \"world\" \n\\ $name\n"; files[0].Data != want {
		t.Errorf("expanded: %q, want %q", files[0].Data, want)
	}
	if want := "'$name' \\\n"; files[1].Data != want {
		t.Errorf("quoted: %q, want %q", files[1].Data, want)
	}
}

func TestWarningsComeWithAnError(t *testing.T) {
	p, err := compile(t, "FROM a AS Upper\nMAINTAINER me\nBADCMD\n")
	if err == nil || p == nil || len(p.Warnings) != 2 {
		t.Errorf("plan %+v, %v", p, err)
	}
	if p, err := compile(t, "FROM --platform=$BULIDPLATFORM a\n"); err == nil || len(p.Warnings) != 1 {
		t.Errorf("plan %+v, %v", p, err)
	}
}

func TestHeredocs(t *testing.T) {
	p := mustCompile(t, "FROM a\nRUN <<EOF\necho one\necho two\nEOF\nRUN <<X\n#!/bin/python\nprint()\nX\nRUN cat <<A >/f\ntext\nA\nCOPY <<one <<two /d/\n1\none\n2\ntwo\n")
	var got []string
	for _, v := range p.Vertices {
		if v.Run != nil {
			got = append(got, fmt.Sprintf("%q %q", v.Run.Args, v.Run.Files))
		}
		if v.Copy != nil {
			got = append(got, fmt.Sprintf("%q", v.Copy.Files))
		}
	}
	want := []string{
		`["/bin/sh" "-c" "echo one\necho two\n"] []`,
		`["/dev/pipes/X"] [{"X" "#!/bin/python\nprint()\n"}]`,
		`["/bin/sh" "-c" "cat <<A >/f\ntext\nA"] []`,
		`[{"one" "1\n"} {"two" "2\n"}]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTriggersOfTheBaseRunOnceAndFirst(t *testing.T) {
	p := mustCompile(t, "FROM trigger\nRUN own\n")
	got := names(p)
	want := []string{"FROM trigger", "COPY . /app", "RUN make", "RUN own"}
	if !slices.Equal(got, want) || len(p.Config.OnBuild) != 0 {
		t.Errorf("vertices %q, want %q; triggers left %q", got, want, p.Config.OnBuild)
	}
}

func TestRulesOfTheLinterWarn(t *testing.T) {
	p := mustCompile(t, "FROM a AS Upper\nENV API_KEY=x\nENV PUBLIC_KEY=x\nWORKDIR rel\nCMD echo hi\nRUN echo\nCMD [\"x\"]\nCOPY $UNSET /x\nMAINTAINER me\n")
	var got []string
	for _, w := range p.Warnings {
		got = append(got, fmt.Sprintf("%d %s", w.Line, w.Rule))
	}
	for _, want := range []string{"1 StageNameCasing", "2 SecretsUsedInArgOrEnv", "4 WorkdirRelativePath", "5 JSONArgsRecommended", "5 MultipleInstructionsDisallowed", "8 UndefinedVar", "9 MaintainerDeprecated"} {
		if !slices.Contains(got, want) {
			t.Errorf("no warning %q in %q", want, got)
		}
	}
	if slices.Contains(got, "3 SecretsUsedInArgOrEnv") {
		t.Error("PUBLIC_KEY was taken for a secret")
	}
}

// TestConfigIsGolden compares configuration and history with testdata/*.golden; UPDATE=1
// writes them.
func TestConfigIsGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.Dockerfile")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			p := mustCompile(t, string(text), func(o *Options) { o.Labels = map[string]string{"from": "cli"} })
			out := struct {
				Config  v1.DockerOCIImageConfig
				History []string
			}{Config: p.Config}
			for _, h := range p.History {
				kind := "layer "
				if h.EmptyLayer {
					kind = "config"
				}
				out.History = append(out.History, kind+" "+h.CreatedBy)
			}
			got, err := json.MarshalIndent(out, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(name, ".Dockerfile") + ".golden"
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != string(got)+"\n" {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("FROM a\nRUN <<EOF\nx\nEOF\nCOPY --from=0 a b\n")
	f.Add("# escape=`\nARG X=y\nFROM ${X} AS z\nEXPOSE 1-3/udp\n")
	f.Fuzz(func(t *testing.T, text string) {
		opts := Options{Platform: amd64, Host: amd64, Base: testBase}
		p, err := Compile(t.Context(), []byte(text), opts)
		if err == nil && p.Target == nil {
			t.Error("a plan without a target")
		}
	})
}

func TestModesAreThoseOfChmod(t *testing.T) {
	for _, row := range []struct {
		wish       string
		file, want int64
		dir        bool
	}{
		{"755", 0o600, 0o755, false},
		{"4711", 0o600, 0o4711, false},
		{"u=rwX,go=rX", 0o600, 0o644, false},
		{"u=rwX,go=rX", 0o600, 0o755, true},
		{"u=rwX,go=rX", 0o711, 0o755, false},
		{"+x", 0o644, 0o755, false},
		{"a-w,u+w", 0o666, 0o644, false},
		{"g=u", 0o640, 0o660, false},
		{"u+s,+t", 0o755, 0o5755, false},
		{"go=", 0o777, 0o700, false},
		{"u+x-r", 0o600, 0o300, false},
	} {
		m, err := ParseMode(row.wish)
		if err != nil {
			t.Errorf("%s: %v", row.wish, err)
			continue
		}
		if got := m(row.file, row.dir); got != row.want {
			t.Errorf("chmod %s of %o = %o, want %o", row.wish, row.file, got, row.want)
		}
	}
	for _, bad := range []string{"8", "10000", "x", "u=z", "=rw,", "u"} {
		if _, err := ParseMode(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestLinterSaysWhatBuildKitsDoes(t *testing.T) {
	rules := func(text string, o Options) (out []string, err error) {
		o.Base = func(_ context.Context, ref string, p ocispec.Platform) (*Base, error) {
			return &Base{Name: ref, ID: digest.FromString(ref), Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}, nil
		}
		o.Platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}
		o.Host = o.Platform
		p, err := Compile(t.Context(), []byte(text), o)
		if p != nil {
			for _, w := range p.Warnings {
				out = append(out, w.Rule)
			}
		}
		slices.Sort(out)
		return slices.Compact(out), err
	}
	for _, row := range []struct {
		text string
		want string
	}{
		{"FROM a\nrun true\nRUN true\n", "ConsistentInstructionCasing"},
		{"FROM --platform=$TARGETPLATFORM a\n", "RedundantTargetPlatform"},
		{"FROM --platform=linux/amd64 a\n", "FromPlatformFlagConstDisallowed"},
		{"FROM --platform=linux/amd64 a AS build-amd64\n", ""},
		{"ARG V\nFROM a:$V\n", "InvalidDefaultArgInFrom"},
		{"FROM a\nCOPY secret.txt /\n", "CopyIgnoredFile"},
		{"FROM a\nEXPOSE 80/TCP\n", "ExposeProtoCasing"},
		{"FROM a\nEXPOSE 127.0.0.1:80:80\n", "ExposeInvalidFormat"},
		{"FROM a\nCMD echo hi\n", "JSONArgsRecommended"},
		{"FROM a\nENV API_KEY=x\n", "SecretsUsedInArgOrEnv"},
		{"FROM a\nMAINTAINER x\n", "MaintainerDeprecated"},
		{"FROM a AS Build\n", "StageNameCasing"},
		{"FROM a AS x\nFROM a AS x\n", "DuplicateStageName"},
		{"FROM a AS scratch\n", "ReservedStageName"},
		{"FROM a\nENV a b\n", "LegacyKeyValueFormat"},
		{"FROM a\nWORKDIR x\n", "WorkdirRelativePath"},
		{"FROM a\nCOPY $nope /\n", "UndefinedVar"},
		{"FROM a\nCMD [\"a\"]\nCMD [\"b\"]\n", "MultipleInstructionsDisallowed"},
		{"# check=skip=JSONArgsRecommended\nFROM a\nCMD echo hi\n", ""},
		{"# check=skip=all\nFROM a AS Build\nCMD echo hi\n", ""},
		{"FROM a\n# check=skip=JSONArgsRecommended\nCMD echo hi\n", ""},
		{"FROM a\n# check=skip=JSONArgsRecommended\nENV a b\nCMD echo hi\n", "JSONArgsRecommended,LegacyKeyValueFormat"},
		{"FROM a\n# check=skip=all\nENV a b\n# check=skip=SecretsUsedInArgOrEnv\nARG password\n", ""},
		{"ARG X\n\n# check=skip=RedundantTargetPlatform\nFROM --platform=$TARGETPLATFORM a\n", ""},
		{"ARG DEBUG\nFROM a${DEBUG}\n", ""},
		{"FROM a${DEBUG}\n", "UndefinedArgInFrom"},
		{"FROM a AS x\nARG f=y\nFROM x\nCOPY $f /\n", ""},
		{"FROM a\nCOPY $f /\nARG f=y\n", "UndefinedVar"},
		{"FROM a AS x\nWORKDIR /app\nFROM x\nWORKDIR sub\n", ""},
		{"FROM a\nARG AUTH_VERSION\nENV password_file=x\n", ""},
		{"FROM a\nCOPY . /\n", ""},
	} {
		o := Options{Ignore: []string{"secret.txt"}}
		if strings.Contains(row.text, "$V") {
			o.Args = map[string]string{"V": "1"}
		}
		got, err := rules(row.text, o)
		if err != nil || strings.Join(got, ",") != row.want {
			t.Errorf("%q: rules %q, want %q; %v", row.text, got, row.want, err)
		}
	}
	if got, err := rules("FROM a\nCOPY . /\n", Options{Ignore: []string{"*"}}); err != nil || !slices.Equal(got, []string{"CopyIgnoredFile"}) {
		t.Errorf("everything is ignored: rules %q, %v", got, err)
	}
	_, err := rules("# check=error=true\nFROM a\nCMD echo hi\n", Options{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Lines != [2]int{3, 3} || !strings.Contains(err.Error(), "JSONArgsRecommended") {
		t.Errorf("check=error=true: %v", err)
	}
}

func TestTargetsAreListed(t *testing.T) {
	got, err := Targets([]byte("# build makes it\nFROM a AS build\nFROM b\n"))
	if err != nil || len(got) != 2 || got[0].Name != "build" || got[0].Description != "makes it" || !got[1].Default {
		t.Errorf("targets %+v, %v", got, err)
	}
}

func TestOutlineListsWhatTheTargetAndItsStagesTake(t *testing.T) {
	const file = `ARG a=1
ARG b=$a
ARG b=$b-2
ARG c=3
FROM x:$b AS one
ARG a
ARG d=$PATH
FROM y:$c AS two
ARG e
FROM one
ARG f=5 g
RUN --mount=type=secret,target=/etc/passwd true
`
	opts := Options{Args: map[string]string{"g": "given"}, Platform: amd64, Host: amd64}
	got, err := ReadOutline(t.Context(), []byte(file), opts)
	if err != nil {
		t.Fatal(err)
	}
	want := &Outline{
		Args: []Arg{
			{Name: "a", Value: "1", Lines: [2]int{1, 1}},
			{Name: "b", Value: "1-2", Lines: [2]int{3, 3}},
			{Name: "d", Lines: [2]int{7, 7}},
			{Name: "f", Value: "5", Lines: [2]int{11, 11}},
			{Name: "g", Value: "given", Lines: [2]int{11, 11}},
		},
		Secrets: []Given{{ID: "passwd", Lines: [2]int{12, 12}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	opts.Target = "nosuch"
	if _, err := ReadOutline(t.Context(), []byte(file), opts); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a target that there is not: %v", err)
	}
}

func TestRepositoriesAreToldFromOtherURLs(t *testing.T) {
	p := mustCompile(t, "FROM a\nADD http://h/a.git?tag=v1 http://h/b.git#v1 git@h:c.git http://h/d.tar?x=y.git http://h/e.git.tar /r/\n")
	if c := p.Target.Copy; len(c.Repos) != 3 || len(c.URLs) != 2 {
		t.Errorf("repositories %q, URLs %q", c.Repos, c.URLs)
	}
}

func TestOctalModesCountForDirectoriesThatAreMade(t *testing.T) {
	for text, want := range map[string]int64{"755": 0o755, "4770": 0o770, "u=rwX": 0, "": 0, "999": 0} {
		if got := OctalMode(text); got != want {
			t.Errorf("OctalMode(%q) = %o, want %o", text, got, want)
		}
	}
}

func TestEpochsAreNumbers(t *testing.T) {
	for _, row := range []struct {
		text string
		args map[string]string
		want int64 // zero for an error
		is   func(error) bool
	}{
		{"ARG SOURCE_DATE_EPOCH=5\nFROM a\n", nil, 5, nil},
		{"ARG N=6\nARG SOURCE_DATE_EPOCH=$N\nFROM a\n", nil, 6, nil},
		{"FROM a\n", map[string]string{"SOURCE_DATE_EPOCH": "7"}, 7, nil},
		{"ARG SOURCE_DATE_EPOCH=soon\nFROM a\n", nil, 0, errdefs.IsInvalidArgument},
		{"ARG SOURCE_DATE_EPOCH=context\nFROM a\n", nil, 0, errdefs.IsNotImplemented},
		{"ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD http://h/x /\nFROM a\n", nil, 0, errdefs.IsNotImplemented},
	} {
		p, err := compile(t, row.text, func(o *Options) { o.Args = row.args })
		if row.want == 0 {
			if !row.is(err) {
				t.Errorf("%q: %v", row.text, err)
			}
		} else if err != nil || p.Epoch.Unix() != row.want {
			t.Errorf("%q: %v, %v", row.text, p, err)
		}
	}
}

func TestPlatformArgumentsHaveTheVersionOfTheOS(t *testing.T) {
	p := mustCompile(t, "FROM scratch\nARG TARGETPLATFORM\nARG TARGETOSVERSION\nCOPY <<EOF /x\n$TARGETPLATFORM $TARGETOSVERSION\nEOF\n", func(o *Options) {
		o.Platform = ocispec.Platform{OS: "windows", Architecture: "amd64", OSVersion: "1.2"}
	})
	if got := p.Target.Copy.Files[0].Data; got != "windows(1.2)/amd64 1.2\n" {
		t.Errorf("%q", got)
	}
}
