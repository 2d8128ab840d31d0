package cliapp

import (
	"slices"
	"testing"
)

func testFlags() []Flag {
	return []Flag{
		{Name: "interactive", Short: "i"},
		{Name: "tty", Short: "t"},
		{Name: "detach", Short: "d"},
		{Name: "env", Short: "e", Kind: List},
		{Name: "publish", Short: "p", Kind: List},
		{Name: "name", Kind: String},
		{Name: "time", Short: "n", Kind: Int},
		{Name: "network", Kind: List},
		{Name: "net", Kind: List, AliasOf: "network", Hidden: true},
	}
}

func TestNormaliseReadsArgumentsAsDockerDoes(t *testing.T) {
	for _, tc := range []struct {
		name      string
		argv      []string
		stopAtArg bool
		flags     []string
		args      []string
	}{
		{"flags after arguments", []string{"web", "-t"}, false, []string{"--tty=true"}, []string{"web"}},
		{"flags of the program stay with it", []string{"-i", "image", "cmd", "-t"}, true, []string{"--interactive=true"}, []string{"image", "cmd", "-t"}},
		{"bundle", []string{"-itd"}, false, []string{"--interactive=true", "--tty=true", "--detach=true"}, nil},
		{"bundle that ends with a value", []string{"-itpfoo"}, false, []string{"--interactive=true", "--tty=true", "--publish=foo"}, nil},
		{"glued value with equals sign", []string{"-eA=1"}, false, []string{"--env=A=1"}, nil},
		{"short flag with equals sign", []string{"-e=A=1"}, false, []string{"--env=A=1"}, nil},
		{"value with commas stays whole", []string{"-e", "A=1,2"}, false, []string{"--env=A=1,2"}, nil},
		{"boolean with a value", []string{"--tty=false"}, false, []string{"--tty=false"}, nil},
		{"boolean takes no next argument", []string{"--tty", "false"}, false, []string{"--tty=true"}, []string{"false"}},
		{"value that looks like a flag", []string{"--name", "-t"}, false, []string{"--name=-t"}, nil},
		{"empty value", []string{"--name="}, false, []string{"--name="}, nil},
		{"negative number", []string{"-n", "-1"}, false, []string{"--time=-1"}, nil},
		{"dashes end the flags", []string{"-t", "--", "-i"}, false, []string{"--tty=true"}, []string{"-i"}},
		{"a lone dash is an argument", []string{"-"}, false, nil, []string{"-"}},
		{"alias", []string{"--net", "host"}, false, []string{"--network=host"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := normalise(testFlags(), tc.argv, tc.stopAtArg)
			if err != nil {
				t.Fatalf("normalise(%q): %v", tc.argv, err)
			}
			if !slices.Equal(got.flags, tc.flags) || !slices.Equal(got.args, tc.args) {
				t.Errorf("normalise(%q) = %q, %q, want %q, %q", tc.argv, got.flags, got.args, tc.flags, tc.args)
			}
		})
	}
}

func TestNormaliseNamesTheMistake(t *testing.T) {
	for _, tc := range []struct {
		argv []string
		want string
	}{
		{[]string{"--foo"}, "unknown flag: --foo"},
		{[]string{"--nam", "x"}, "unknown flag: --nam"},
		{[]string{"-iz"}, "unknown shorthand flag: 'z' in -iz"},
		{[]string{"--name"}, "flag needs an argument: --name"},
		{[]string{"-ie"}, "flag needs an argument: 'e' in -ie"},
		{[]string{"-n", "x"}, `invalid argument "x" for "-n, --time" flag: strconv.ParseInt: parsing "x": invalid syntax`},
		{[]string{"--tty=maybe"}, `invalid argument "maybe" for "-t, --tty" flag: strconv.ParseBool: parsing "maybe": invalid syntax`},
		{[]string{"---x"}, "bad flag syntax: ---x"},
	} {
		if _, err := normalise(testFlags(), tc.argv, false); err == nil || err.Error() != tc.want {
			t.Errorf("normalise(%q) = %v, want %q", tc.argv, err, tc.want)
		}
	}
}

func FuzzNormalise(f *testing.F) {
	f.Add("-itd", "--name=x", "web")
	f.Add("-e", "A=1,2", "--")
	f.Add("-=", "--=", "-e=")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		p, err := normalise(testFlags(), []string{a, b, c}, false)
		if err != nil {
			return
		}
		// What was normalised once reads the same again.
		again, err := normalise(testFlags(), append(append(slices.Clone(p.flags), "--"), p.args...), false)
		if err != nil {
			t.Fatalf("second reading of %q %q: %v", p.flags, p.args, err)
		}
		if !p.help && (!slices.Equal(p.flags, again.flags) || !slices.Equal(p.args, again.args)) {
			t.Errorf("second reading = %q %q, want %q %q", again.flags, again.args, p.flags, p.args)
		}
	})
}
