package buildkit

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"strata/engined/internal/build"
	"strata/engined/internal/build/files"
	"strata/pkg/buildkit/controlpb"
)

// remote is what a definition of a client fetches, if it does nothing else: a repository, or
// a file by HTTP. Clients look into such a one before they build: for a policy or a bake file
// in the context, or for a Dockerfile at a URL.
type remote struct {
	url  string // as build.Service.Remote reads it
	file string // name of what HTTP gives; "" for a repository
}

// Attributes of the sources that are understood. Those with true say nothing here: secrets
// and agents are asked for under their usual names.
var (
	gitAttrs = map[string]bool{
		"git.fullurl": false, "git.keepgitdir": false, "git.checksum": false, "git.skipsubmodules": false, "git.fetchbycommit": false,
		"git.authtokensecret": true, "git.authheadersecret": true, "git.knownsshhosts": true, "git.mountsshsock": true, "git.advice": true,
	}
	httpAttrs = map[string]bool{"http.filename": false}
)

// remoteOf returns what a definition fetches; false if it is of another kind.
func remoteOf(def *controlpb.Definition) (remote, bool) {
	var source *controlpb.SourceOp
	for _, raw := range def.GetDef() {
		op := &controlpb.Op{}
		if proto.Unmarshal(raw, op) != nil || op.Source != nil && source != nil {
			return remote{}, false
		}
		if op.Source != nil {
			source = op.Source
		} else if len(op.ProtoReflect().GetUnknown()) > 0 || len(op.Inputs) != 1 {
			return remote{}, false
		}
	}
	id, attrs := source.GetIdentifier(), source.GetAttrs()
	known := httpAttrs
	isGit := strings.HasPrefix(id, "git://")
	if isGit {
		known = gitAttrs
	} else if !strings.HasPrefix(id, "http://") && !strings.HasPrefix(id, "https://") {
		return remote{}, false
	}
	for k := range attrs {
		if _, ok := known[k]; !ok {
			return remote{}, false
		}
	}
	if !isGit {
		return remote{url: id, file: attrs["http.filename"]}, attrs["http.filename"] != ""
	}
	return repository(id, attrs)
}

// repository is the remote of a git source: git://HOST/PATH#REF:DIRECTORY, and the URL that
// was meant as an attribute.
func repository(id string, attrs map[string]string) (remote, bool) {
	base, fragment, _ := strings.Cut(id, "#")
	if full := attrs["git.fullurl"]; full != "" {
		base = full
	}
	var query []string
	for attr, q := range map[string]string{"git.keepgitdir": "keep-git-dir=true", "git.skipsubmodules": "submodules=false", "git.fetchbycommit": "fetch-by-commit=true"} {
		if attrs[attr] == "true" {
			query = append(query, q)
		}
	}
	if sum := attrs["git.checksum"]; sum != "" {
		query = append(query, "checksum="+sum)
	}
	if len(query) > 0 {
		if !strings.Contains(base, "://") {
			return remote{}, false // user@host:path has no query
		}
		base += "?" + strings.Join(query, "&")
	}
	if fragment != "" {
		base += "#" + fragment
	}
	return remote{url: base}, true
}

// fetch returns the files of r's remote, which are fetched once and stay until the job ends.
func (j *job) fetch(ctx context.Context, r *result) (files.Tree, error) {
	r.fetching.Lock()
	defer r.fetching.Unlock()
	if r.fetched != nil {
		return r.fetched, nil
	}
	err := j.story.step("[internal] load "+r.remote.url, func(progress) (err error) {
		var got *build.Remote
		if r.remote.file != "" {
			got, err = j.s.builds.File(ctx, r.remote.url, r.remote.file)
		} else {
			var secrets build.Secrets
			var agents build.Agents
			if j.session != nil {
				secrets, agents = j.session, j.session
			}
			got, err = j.s.builds.Remote(ctx, r.remote.url, secrets, agents)
		}
		if err != nil {
			return err
		}
		j.hold(func() { _ = got.Close() }) // only read
		r.fetched, err = got.Files(ctx, nil, nil)
		return err
	})
	return r.fetched, err
}

// solveRemote is Solve of the bridge for a definition.
func (b bridge) solveRemote(ctx context.Context, j *job, def *controlpb.Definition, evaluate bool) (*result, error) {
	from, ok := remoteOf(def)
	if !ok {
		return nil, unimplemented("a definition of the client's own (LLB)")
	}
	if err := j.attach(ctx); err != nil {
		return nil, err
	}
	r := &result{remote: &from}
	if evaluate {
		if _, err := j.fetch(ctx, r); err != nil {
			return nil, fmt.Errorf("load %s: %w", from.url, err)
		}
	}
	return r, nil
}
