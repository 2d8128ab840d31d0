package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strata/integration/harness"
)

const insecureFile = "FROM busybox:test\nRUN --security=insecure busybox mount -t tmpfs none /tmp && echo did as it liked\n"

func TestEntitlementsAreDecidedByBothSides(t *testing.T) {
	insecure := project(t, map[string]string{"Dockerfile": insecureFile})
	network := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN --network=host true\n"})
	type row struct {
		dir  string
		args []string
		want string // part of the error; "" for none
	}
	const yes, no = `"builder": {"entitlements": {"security-insecure": true}}`, `"builder": {"entitlements": {"network-host": true}}`
	for name, c := range map[string]struct {
		config string
		rows   []row
	}{
		"by default": {`{}`, []row{
			{insecure, nil, "security.insecure is not allowed: build with --allow security.insecure, and with " + yes},
			{insecure, []string{"--allow", "security.insecure"}, "granting entitlement security.insecure is not allowed by build daemon configuration: the engine's wants " + yes},
			{network, nil, "network.host is not allowed: build with --allow network.host: "},
			{network, []string{"--allow", "network.host"}, ""},
		}},
		"the other way round": {`{"builder": {"entitlements": {"security-insecure": true, "network-host": false}}}`, []row{
			{insecure, nil, "security.insecure is not allowed: build with --allow security.insecure: "},
			{insecure, []string{"--allow", "security.insecure"}, ""},
			{network, []string{"--allow", "network.host"}, "granting entitlement network.host is not allowed by build daemon configuration: the engine's wants " + no},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "engine.json")
			if err := os.WriteFile(config, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			s := harness.New(t, harness.EngineArgs("--config-file", config))
			s.LoadBusybox()
			for _, r := range c.rows {
				for _, client := range kitClients {
					got := build(s, client, append([]string{"--progress=plain", "--no-cache"}, append(r.args, r.dir)...)...)
					if (got.Code == 0) != (r.want == "") || !strings.Contains(got.Stderr, r.want) {
						t.Errorf("%s %q, want %q: %+v", client, r.args, r.want, got)
					}
				}
			}
		})
	}
}
