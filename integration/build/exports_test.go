package build

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strata/integration/harness"
)

// byDigest pushes without a tag, which is how builds of single platforms are joined to an
// index by others.
func byDigest(t *testing.T, s *harness.Stack) {
	registry := s.Registry()
	for _, client := range kitClients {
		dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "of " + client})
		repo, meta := registry+"/digests/"+client, filepath.Join(t.TempDir(), "meta.json")
		// Pushed, and kept nowhere.
		mustBuild(t, s, client, "-o", "type=image,name="+repo+":away,push=true,store=false", dir)
		if list := tags(t, s, registry, "digests/"+client); !strings.Contains(list, "away") {
			t.Errorf("%s: the registry has no tag: %s", client, list)
		}
		if r := s.Docker("image", "inspect", repo+":away"); r.Code == 0 {
			t.Errorf("%s: store=false has kept the image", client)
		}
		if client == "buildx" {
			continue // it does not ask its docker driver for the rest
		}
		mustBuild(t, s, client, "--metadata-file", meta, "-o", "type=image,name="+repo+",push-by-digest=true,name-canonical=true,push=true", dir)
		var said map[string]any
		raw, err := os.ReadFile(meta)
		if err == nil {
			err = json.Unmarshal(raw, &said)
		}
		digest, _ := said["containerimage.digest"].(string)
		if err != nil || said["image.name"] != repo || digest == "" {
			t.Fatalf("%s: metadata %s, %v", client, raw, err)
		}
		if list := tags(t, s, registry, "digests/"+client); strings.Contains(list, "latest") || !strings.Contains(list, "away") {
			t.Errorf("%s: the registry has tags: %s", client, list)
		}
		if got := s.OK("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "-a"); strings.Contains(got, repo+":latest") {
			t.Errorf("%s: the image has a tag here:\n%s", client, got)
		}
		s.OK("docker", "image", "inspect", repo+"@"+digest)
		s.OK("docker", "image", "rm", "-f", repo+"@"+digest)
		s.OK("docker", "pull", repo+"@"+digest)
		if r := build(s, client, "-o", "type=image,name="+repo+":tag,push-by-digest=true,push=true", dir); r.Code == 0 || !strings.Contains(r.Stderr, "can't push tagged ref "+repo+":tag by digest") {
			t.Errorf("%s: a tag pushed by digest: %d\n%s", client, r.Code, r.Stderr)
		}
	}
}

func tags(t *testing.T, s *harness.Stack, registry, repository string) string {
	t.Helper()
	list, failure := s.Curl("http://" + registry + "/v2/" + repository + "/tags/list")
	if failure != "" {
		t.Fatal(failure)
	}
	return list
}

// layoutOutputs writes images as OCI layouts, which others read as they are.
func layoutOutputs(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nARG TARGETARCH\nLABEL a=$TARGETARCH\nCOPY a /\n", "a": "in a layout\n"})
	for _, client := range kitClients {
		for _, kind := range []string{"oci", "docker"} {
			layout := filepath.Join(t.TempDir(), "layout")
			platforms := "linux/amd64,linux/arm64"
			if kind == "docker" {
				if client == "buildx" {
					continue // it does not ask its docker driver for that
				}
				platforms = "linux/amd64"
			}
			for _, tag := range []string{"one", "two"} { // beside what is there
				mustBuild(t, s, client, "--platform", platforms, "-t", "example.test/layout:"+tag, "-o", "type="+kind+",tar=false,dest="+layout, dir)
			}
			if list := layoutIndex(t, layout); len(list) != 2 || list[0] != list[1] {
				t.Errorf("%s: %s: index %q", client, kind, list)
			}
			if kind == "docker" { // Docker's media types are not for skopeo
				user := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY --from=layout a /\n"})
				mustBuild(t, s, client, "--no-cache", "--build-context", "layout=oci-layout://"+layout+":two", user)
			} else if out, err := s.Host("skopeo", "inspect", "--override-arch=amd64", "oci:"+layout+":two").CombinedOutput(); err != nil || !strings.Contains(string(out), `"a": "amd64"`) {
				t.Errorf("%s: %s: skopeo: %v\n%s", client, kind, err, out)
			}
		}
	}
}

// attestedFiles exports the provenance beside the files that it is of.
func attestedFiles(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH/ /\n", "amd64/a": "a", "amd64/d/f": "f", "arm64/b": "b", "arm64/d/g": "g"})
	clash := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "a"})
	both := []string{"--platform", "linux/amd64,linux/arm64", "--provenance=mode=max"}
	for _, client := range kitClients {
		out := t.TempDir()
		at := func(name string) string { return filepath.Join(out, name) }
		mustBuild(t, s, client, "--platform", "linux/amd64", "--provenance=true", "-o", "type=local,dest="+at("one"), dir)
		mustBuild(t, s, client, append(both, "-o", "type=local,dest="+at("split"), dir)...)
		mustBuild(t, s, client, append(both, "-o", "type=local,platform-split=false,attestation-prefix=x-,dest="+at("merged"), dir)...)
		mustBuild(t, s, client, append(both, "-o", "type=tar,dest="+at("t.tar"), dir)...)
		for name, subjects := range map[string]string{
			"one/provenance.json": "a d/f", "split/linux_amd64/provenance.json": "a d/f", "split/linux_arm64/provenance.json": "b d/g",
			"merged/x-provenance.linux_amd64.json": "a d/f", "merged/x-provenance.linux_arm64.json": "b d/g",
		} {
			var st struct {
				PredicateType string
				Subject       []struct {
					Name   string
					Digest map[string]string
				}
			}
			raw, err := os.ReadFile(at(name))
			if err == nil {
				err = json.Unmarshal(raw, &st)
			}
			var got []string
			for _, sub := range st.Subject {
				if len(sub.Digest["sha256"]) == 64 {
					got = append(got, sub.Name)
				}
			}
			if err != nil || strings.Join(got, " ") != subjects || !strings.Contains(st.PredicateType, "slsa.dev/provenance") {
				t.Errorf("%s: %s: subjects %q, %v", client, name, got, err)
			}
		}
		for _, name := range []string{"merged/d/f", "merged/d/g", "merged/a", "merged/b"} {
			if _, err := os.Stat(at(name)); err != nil {
				t.Errorf("%s: %v", client, err)
			}
		}
		if list := strings.Join(members(t, at("t.tar")), " "); !strings.Contains(list, "linux_arm64/provenance.json") {
			t.Errorf("%s: tar: %s", client, list)
		}
		if r := build(s, client, append(both, "-o", "type=local,platform-split=false,dest="+at("clash"), clash)...); r.Code == 0 || !strings.Contains(r.Stderr, "cannot overwrite /a") {
			t.Errorf("%s: two files of one name: %d\n%s", client, r.Code, r.Stderr)
		}
		// Nobody asked in so many words.
		mustBuild(t, s, client, "-o", "type=local,dest="+at("plain"), clash)
		if _, err := os.Stat(at("plain/provenance.json")); err == nil {
			t.Errorf("%s: files have a provenance that nobody asked for", client)
		}
		if err := os.WriteFile(at("plain/old"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		allow := []string{"-o", "type=local,mode=delete,dest=" + at("plain"), clash}
		if client == "buildx" {
			allow = append([]string{"--allow", "buildx.local.delete"}, allow...)
		}
		mustBuild(t, s, client, allow...)
		if _, err := os.Stat(at("plain/old")); err == nil {
			t.Errorf("%s: mode=delete has left what was there", client)
		}
	}
}

// badOutputs are refused before anything is built.
func badOutputs(t *testing.T, s *harness.Stack) {
	dir := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN cat /proc/sys/kernel/random/uuid >/once\n"})
	for _, row := range []struct{ output, want string }{
		{"type=image,compresion=zstd", `unknown attribute "compresion" (did you mean compression?)`},
		{"type=image,compression=estargz", "compression=estargz: not implemented"},
		{"type=image,compression=gzip,compression-level=11", "want 0 to 9 for gzip"},
		{"type=image,compression=zstd,oci-mediatypes=false", "conflicts with oci-mediatypes"},
		{"type=image,prefer-nondist-layers=true", "prefer-nondist-layers: not implemented"},
		{"type=image,oci-artifact=true", "oci-artifact: not implemented"},
		{"type=image,store=maybe", "want true or false"},
		{"type=image,annotation-manifets.a=b", `did you mean manifest?`},
		{"type=image,name=example.test/x,registry.insecure=true", "registry.insecure: not implemented"},
	} {
		for _, client := range kitClients {
			if client == "buildx" && strings.Contains(row.output, "annotation-") {
				continue // it looks at them itself
			}
			r := build(s, client, "--no-cache", "-o", row.output, dir)
			if r.Code == 0 || !strings.Contains(r.Stderr, row.want) || strings.Contains(r.Stderr, "RUN cat") {
				t.Errorf("%s: -o %s: exit code %d, want %q and nothing built\n%s", client, row.output, r.Code, row.want, r.Stderr)
			}
		}
	}
	devices := project(t, map[string]string{"Dockerfile": "FROM busybox:test\nRUN cat /proc/sys/kernel/random/uuid\nRUN --device=example.test/gpu=all true\n"})
	for _, client := range clients {
		r := build(s, client, "--no-cache", devices)
		if r.Code == 0 || !strings.Contains(r.Stderr, "RUN --device=example.test/gpu=all: devices of commands: not implemented") || strings.Contains(r.Stdout+r.Stderr, "Step 2") || strings.Contains(r.Stderr, "[2/3]") {
			t.Errorf("%s: RUN --device: exit code %d, want an error and nothing built\n%s%s", client, r.Code, r.Stdout, r.Stderr)
		}
		if client == "docker" {
			continue // it has no such flag
		}
		if r := build(s, client, "--no-cache", "--sbom=true", dir); r.Code == 0 || !strings.Contains(r.Stderr, "--sbom: attestations of what is in an image: not implemented") || strings.Contains(r.Stderr, "RUN cat") {
			t.Errorf("%s: --sbom: exit code %d, want an error and nothing built\n%s", client, r.Code, r.Stderr)
		}
	}
}
