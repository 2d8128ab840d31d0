package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os/exec"
)

// stockCommand makes a command for the stock docker.
type stockCommand = func(args ...string) *exec.Cmd

// Reasons for differences.
const (
	argValues  = "20.10 leaves the value of an ARG out of its own line; BuildKit 0.32 has it, as we have"
	noLayer    = "a step that changes nothing has no layer, and says so; 20.10 writes an empty one"
	mountPoint = "20.10 leaves the directories that it mounts upon; BuildKit removes them since 0.9, as we do"
	cleanPath  = "20.10 keeps the slash at the end"
	modeOf     = "20.10 drops setuid of --chmod"
	health     = "20.10 prints the pointer of the structure that BuildKit 0.32 and we print"
	copyFlags  = "20.10 leaves the flags of COPY out; BuildKit 0.32 has them, as we have"
	exposed    = "20.10 prints a map where BuildKit 0.32 and we print a list"
)

// samples are the Dockerfiles of TestStockBuilderMakesTheSame.
var samples = []sample{
	{name: "env", text: "FROM busybox:test\nENV A=1 B=\"two words\" C=$A\nENV D old style\nENV PATH=/x:$PATH\nRUN env | grep -v ^PWD >/env; sort /env >/sorted 2>/dev/null || true; rm -f /env /sorted\n", differs: map[string]string{"history": noLayer}},
	{name: "variables with modifiers", text: "FROM busybox:test\nENV A=set E=\nENV B=${A:-x} C=${N:-default} D=${A:+alt} F=${N:+alt} G=${E:-empty}\nENV I=\"\\$A\" J='$A'\n"},
	{name: "modifiers without a colon", text: "FROM busybox:test\nENV E=\nENV H=${E-kept} I=${E+set}\n", newer: "20.10 knows modifiers with a colon only"},
	{name: "args", text: "ARG TAG=test\nFROM busybox:$TAG\nARG A=1\nARG B\nARG C=$A-c\nENV E=$B$C\nRUN echo \"$A $B $C\" >/args\n", args: []string{"--build-arg", "B=two"}, differs: map[string]string{"history": argValues}},
	{name: "an arg that nothing gives", text: "FROM busybox:test\nARG A\nRUN echo \"x${A}x\" >/a\n"},
	{name: "env wins over arg", text: "FROM busybox:test\nARG A=arg\nENV A=env\nRUN echo $A >/a\n", args: []string{"--build-arg", "A=given"}, differs: map[string]string{"history": argValues}},
	{name: "platform arguments", text: "FROM busybox:test\nARG TARGETOS\nARG TARGETARCH\nARG BUILDPLATFORM\nRUN echo $TARGETOS $TARGETARCH $BUILDPLATFORM >/p\n", differs: map[string]string{"history": argValues}},
	{name: "shell forms", text: "FROM busybox:test\nRUN [\"/bin/sh\", \"-c\", \"echo exec >/e\"]\nRUN echo shell \\\n  continued >/s\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo other >/o\nCMD echo hi\nENTRYPOINT exec sh\n"},
	{name: "entrypoint and cmd", text: "FROM busybox:test\nCMD [\"a\", \"b\"]\nENTRYPOINT [\"/bin/echo\"]\n"},
	{name: "an entrypoint clears the base's cmd", text: "FROM busybox:test AS b\nCMD [\"base\"]\nFROM b\nENTRYPOINT [\"/bin/echo\"]\n"},
	{name: "workdir", text: "FROM busybox:test\nWORKDIR /a\nWORKDIR b\nWORKDIR ../c/./d\nRUN pwd >here\nENV X=y\nWORKDIR /$X/z/\n", differs: map[string]string{"config": cleanPath, "history": cleanPath}},
	{name: "workdir of a user", text: "FROM busybox:test\nUSER nobody\nWORKDIR /home/n\nRUN id -u >/tmp/id\n"},
	{name: "user", text: "FROM busybox:test\nUSER 1000:1000\nRUN id -u >/tmp/u; id -g >/tmp/g\nUSER nobody:nogroup\nRUN id -g >/tmp/n\n"},
	{name: "healthcheck", text: "FROM busybox:test\nHEALTHCHECK --interval=5s --timeout=2s --start-period=1s --retries=4 CMD wget -q localhost || exit 1\n", differs: map[string]string{"history": health}},
	{name: "healthcheck exec form", text: "FROM busybox:test\nHEALTHCHECK CMD [\"true\"]\n", differs: map[string]string{"history": health}},
	{name: "no healthcheck", text: "FROM busybox:test\nHEALTHCHECK NONE\n", differs: map[string]string{"history": health}},
	{name: "labels", text: "FROM busybox:test\nLABEL a=1 b=\"two words\" \"c.d\"=e\nLABEL f=multi\\\nline\nLABEL a=again\n", args: []string{"--label", "cli=yes"}},
	{name: "expose", text: "FROM busybox:test\nEXPOSE 80 53/udp 7000-7002\nENV P=99\nEXPOSE $P/tcp\n", differs: map[string]string{"history": exposed}},
	{name: "volume", text: "FROM busybox:test\nVOLUME /v1 /v2\nVOLUME [\"/v3\"]\nRUN echo kept >/v1/x || true\n", differs: map[string]string{"history": noLayer}},
	{name: "stopsignal", text: "FROM busybox:test\nSTOPSIGNAL SIGUSR1\n"},
	{name: "maintainer", text: "FROM busybox:test\nMAINTAINER somebody <x@y>\n"},
	{name: "onbuild", text: "FROM busybox:test\nONBUILD COPY a /a\nONBUILD RUN echo x\n"},
	{name: "escape directive", text: "# escape=`\nFROM busybox:test\nRUN echo one `\n  two >/x\nENV P=C:\\dir\n"},
	{name: "comments and empty lines", text: "# a comment\n\nFROM busybox:test\n# another\nRUN echo a \\\n  # within\n  b >/x\n"},
	{name: "stages by name and number", text: "FROM busybox:test AS one\nRUN echo 1 >/one\nFROM one AS two\nRUN echo 2 >/two\nFROM busybox:test\nCOPY --from=0 /one /\nCOPY --from=two /two /\n"},
	{name: "from scratch", text: "FROM busybox:test AS b\nFROM scratch\nCOPY --from=b /bin/busybox /bin/sh\nCOPY a /x/y/\nRUN echo ok >/ok\n", files: map[string]string{"a": "a"}, differs: map[string]string{"/dev": mountPoint, "/etc": mountPoint, "/proc": mountPoint, "/sys": mountPoint}},
	{name: "target", text: "FROM busybox:test AS a\nENV S=a\nFROM busybox:test AS b\nENV S=b\n", args: []string{"--target", "A"}},
	{
		name: "copy of files and directories", text: "FROM busybox:test\nCOPY a /file\nCOPY a b /dir/\nCOPY d /d1\nCOPY d/ /d2/\nCOPY d/sub /d3\nCOPY . /all/\nCOPY a .\nWORKDIR /w\nCOPY a b ./\nCOPY d .\n",
		files: map[string]string{"a": "a", "b": "b", "d/x": "x", "d/sub/y": "y", "d/.hidden": "h"},
	},
	{
		name: "copy of wildcards", text: "FROM busybox:test\nCOPY *.txt /t/\nCOPY d?/x /q/\nCOPY [ab]* /ab/\nCOPY d*/ /m/\n",
		files: map[string]string{"a.txt": "a", "b.txt": "b", "c.md": "c", "d1/x": "1", "d2/y": "2"},
	},
	{
		name: "copy of symlinks", text: "FROM busybox:test\nCOPY link /l/\nCOPY d /d/\nCOPY dirlink /dl\nCOPY . /all/\n",
		files: map[string]string{"a": "a", "link@": "a", "d/x": "x", "d/rel@": "x", "d/abs@": "/etc/passwd", "d/dangling@": "nowhere", "dirlink@": "d"},
	},
	{
		name: "copy through symlinks of the image", text: "FROM busybox:test\nRUN mkdir /real && ln -s /real /link && ln -s real /rel && ln -s /etc/passwd /pw\nCOPY a /link/\nCOPY a /rel/b\nCOPY d /link\nCOPY a /new/../link/c\n",
		files: map[string]string{"a": "a", "d/x": "x"},
	},
	{
		name: "copy upon what is there", text: "FROM busybox:test\nRUN mkdir -p /d/sub && echo old >/d/x && echo keep >/d/keep && chmod 700 /d\nCOPY d /d\nCOPY a /d/sub\n",
		files: map[string]string{"a": "a", "d/x": "new", "d/sub/y": "y"},
	},
	{
		name: "chown", text: "FROM busybox:test\nCOPY --chown=nobody a /a\nCOPY --chown=nobody:root a /b\nCOPY --chown=7 a /c\nCOPY --chown=7:8 d /new/dir/\nADD --chown=9:9 a /e\nUSER nobody\nCOPY a /f\n",
		files:   map[string]string{"a": "a", "d/x": "x"},
		differs: map[string]string{"history": copyFlags},
	},
	{
		name: "chmod", text: "FROM busybox:test\nCOPY --chmod=600 a /a\nCOPY --chmod=4755 a /b\nCOPY --chmod=750 d /d\n",
		files:   map[string]string{"a": "a", "d/x": "x"},
		differs: map[string]string{"/b": modeOf, "/d": "BuildKit gives a directory that it makes the mode, too", "history": copyFlags},
	},
	{
		name: "add of archives", text: "FROM busybox:test\nADD a.tar /t/\nADD a.tar.gz /z\nCOPY a.tar /kept.tar\nADD text /text\nADD a.tar text /both/\n",
		files: map[string]string{"a.tar": archiveText(false), "a.tar.gz": archiveText(true), "text": "text"},
	},
	{
		name: "add of an archive upon a file", text: "FROM busybox:test\nRUN mkdir -p /t && echo old >/t/f && ln -s /etc /t/l\nADD a.tar /t\n",
		files: map[string]string{"a.tar": archiveText(false)},
	},
	{
		name: "dockerignore", text: "FROM busybox:test\nCOPY . /c/\n",
		files: map[string]string{".dockerignore": "*.log\n!keep.log\nd\n!d/back\n**/deep\nDockerfile\n", "a.log": "", "keep.log": "", "d/x": "", "d/back": "", "e/deep": "", "e/x": ""},
	},
	{name: "run removes and replaces", text: "FROM busybox:test\nRUN rm /etc/group && mkdir /etc/group && rm -r /data && echo x >/data\n\n"},
	{name: "a directory instead of /etc/group", text: "FROM busybox:test\nRUN rm /etc/group && mkdir /etc/group\nRUN true\n", newer: "runc refuses a root filesystem whose group file is a directory"},
	{name: "run without a change", text: "FROM busybox:test\nRUN true\nRUN echo x >/x\n", differs: map[string]string{"history": noLayer}},
	{name: "modes and kinds that run leaves", text: "FROM busybox:test\nRUN umask 077 && echo x >/x && mkdir /d && chmod 1777 /d && ln /x /hard && chmod 6755 /x\n"},
	{name: "mounts of run", text: "FROM busybox:test AS b\nRUN echo from >/from\nFROM busybox:test\nRUN --mount=type=bind,target=/ctx --mount=type=bind,from=b,source=/from,target=/m/from --mount=type=tmpfs,target=/t --mount=type=cache,target=/c cat /ctx/a /m/from >/got && touch /t/x /c/x\n", files: map[string]string{"a": "a"}, differs: map[string]string{"/c": mountPoint, "/ctx": mountPoint, "/m": mountPoint, "/t": mountPoint}},
	{name: "a name that expands", text: "FROM busybox:test\nARG D=/dir\nENV F=a\nCOPY $F $D/${F}2\nADD ${F} ${D}/\nUSER ${U:-nobody}\nSTOPSIGNAL ${S:-SIGINT}\nLABEL l=$F\n", files: map[string]string{"a": "a"}},
	{name: "unknown instruction", text: "FROM busybox:test\nFOO bar\n", fails: true},
	{name: "no from", text: "RUN true\n", fails: true},
	{name: "a file that is not there", text: "FROM busybox:test\nCOPY nope /\n", fails: true},
	{name: "a parent of the context", text: "FROM busybox:test\nCOPY ../Dockerfile /x\n"},
	{name: "several sources and a file", text: "FROM busybox:test\nCOPY a b /x\n", files: map[string]string{"a": "", "b": ""}, stricter: "the reference says that the destination must end with a slash, and the classic builder wants it"},
	{name: "a stage that is not there", text: "FROM busybox:test\nCOPY --from=nosuch.invalid/x /x /\n", fails: true},
	{name: "a command that fails", text: "FROM busybox:test\nRUN exit 3\n", fails: true},
	{name: "an unknown flag", text: "FROM busybox:test\nCOPY --nosuch=x a /\n", files: map[string]string{"a": ""}, fails: true},
	{name: "an unknown user", text: "FROM busybox:test\nUSER nosuchuser\nRUN true\n", fails: true},
	{name: "a bad modifier", text: "FROM busybox:test\nENV A=${B?}\n", fails: true},
}

// archiveText is a tar with a directory, a file and a symlink.
func archiveText(compressed bool) string {
	var buf bytes.Buffer
	var w io.WriteCloser = nopCloser{&buf}
	if compressed {
		w = gzip.NewWriter(&buf)
	}
	tw := tar.NewWriter(w)
	for _, h := range []tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o751, Uid: 3, Gid: 4},
		{Name: "d/x", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 3, Gid: 4, Size: 2},
		{Name: "f", Typeflag: tar.TypeReg, Mode: 0o755, Size: 2},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d/x"},
	} {
		if err := tw.WriteHeader(&h); err != nil {
			panic(err)
		}
		if h.Size > 0 {
			_, _ = tw.Write([]byte("x\n"))
		}
	}
	_ = tw.Close()
	_ = w.Close()
	return buf.String()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
