package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/client"
)

// setBuildOptions turns the flags into attributes of the frontend, and into what the session
// serves.
func (s *session) setBuildOptions(ctx context.Context, b *buildclient.Build, c *cli.Context, engine *client.Client) error {
	for flag, attr := range map[string]string{"target": "target", "cgroup-parent": "cgroup-parent"} {
		if v := c.String(flag); v != "" {
			b.Attrs[attr] = v
		}
	}
	if list := c.StringSlice("platform"); len(list) > 0 {
		b.Attrs["platform"] = strings.Join(list, ",")
	}
	b.Attrs["image-resolve-mode"] = "local"
	if c.Bool("pull") {
		b.Attrs["image-resolve-mode"] = "pull"
	}
	if list := c.StringSlice("no-cache-filter"); len(list) > 0 {
		b.Attrs["no-cache"] = strings.Join(list, ",")
	}
	if c.Bool("no-cache") {
		b.Attrs["no-cache"] = ""
	}
	b.Entitlements = c.StringSlice("allow")
	if n := c.String("network"); n != "" && n != "default" {
		b.Attrs["force-network-mode"] = n
		if n == "host" {
			b.Entitlements = append(b.Entitlements, "network.host")
		}
	}
	for _, set := range []func() error{
		func() error { return s.setBuildMaps(b, c) },
		func() error { return setBuildResources(b, c) },
		func() error { return setBuildCall(b, c) },
		func() error { return setAttestations(b, c) },
		func() error { return setBuildHosts(ctx, b, c, engine) },
		func() error { return s.setBuildCaches(b, c) },
		func() error { return s.setBuildOutputs(b, c) },
	} {
		if err := set(); err != nil {
			return err
		}
	}
	var err error
	if b.Secrets, err = buildSecrets(c.StringSlice("secret")); err != nil {
		return err
	}
	b.Agents, err = buildAgents(c.StringSlice("ssh"))
	b.Auth = s.buildAuth
	return err
}

// setBuildMaps sets what is a key and a value.
func (s *session) setBuildMaps(b *buildclient.Build, c *cli.Context) error {
	for _, kv := range s.conf().ProxyEnv(environmentHost(), func(string) bool { return false }) {
		k, v, _ := strings.Cut(kv, "=")
		b.Attrs["build-arg:"+k] = v
	}
	for _, kv := range c.StringSlice("build-arg") {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			if v, ok = os.LookupEnv(k); !ok {
				continue
			}
		}
		b.Attrs["build-arg:"+k] = v
	}
	for _, kv := range c.StringSlice("label") {
		k, v, _ := strings.Cut(kv, "=")
		b.Attrs["label:"+k] = v
	}
	return nil
}

// setAttestations reads --attest, --provenance and --sbom.
func setAttestations(b *buildclient.Build, c *cli.Context) error {
	list := c.StringSlice("attest")
	for _, kind := range []string{"provenance", "sbom"} {
		switch v := c.String(kind); v {
		case "":
		case "true", "false", "1", "0":
			on, _ := strconv.ParseBool(v) // one of these
			list = append(list, fmt.Sprintf("type=%s,disabled=%t", kind, !on))
		case "min", "max":
			list = append(list, "type="+kind+",mode="+v)
		default:
			list = append(list, "type="+kind+","+v)
		}
	}
	for _, spec := range list {
		kind, rest := "", []string{}
		for field := range strings.SplitSeq(spec, ",") {
			if v, ok := strings.CutPrefix(field, "type="); ok {
				kind = v
			} else {
				rest = append(rest, field)
			}
		}
		if kind != "provenance" && kind != "sbom" {
			return fmt.Errorf("invalid --attest %q: type must be provenance or sbom", spec)
		}
		b.Attrs["attest:"+kind] = strings.Join(rest, ",")
	}
	return nil
}

// workerHostGateway is the label in which a daemon says what "host-gateway" means.
const workerHostGateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

// setBuildHosts reads host:ip and host=ip.
func setBuildHosts(ctx context.Context, b *buildclient.Build, c *cli.Context, engine *client.Client) error {
	var out []string
	for _, spec := range c.StringSlice("add-host") {
		host, ip, ok := strings.Cut(spec, "=")
		if !ok {
			host, ip, ok = strings.Cut(spec, ":")
		}
		if ok && ip == "host-gateway" {
			var err error
			if ip, err = hostGateway(ctx, engine); err != nil {
				return err
			}
		}
		ip = strings.Trim(ip, "[]")
		if !ok || host == "" || net.ParseIP(ip) == nil {
			return fmt.Errorf("bad format for add-host: %q", spec)
		}
		out = append(out, host+"="+ip)
	}
	if len(out) > 0 {
		b.Attrs["add-hosts"] = strings.Join(out, ",")
	}
	return nil
}

func hostGateway(ctx context.Context, engine *client.Client) (string, error) {
	conn, err := buildclient.Dial(engine)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	list, err := conn.Control().ListWorkers(ctx, &controlpb.ListWorkersRequest{})
	if err != nil {
		return "", buildError(err)
	}
	for _, w := range list.Record {
		if ip := w.Labels[workerHostGateway]; ip != "" {
			return ip, nil
		}
	}
	return "", errors.New("unable to derive the IP value for host-gateway")
}

// fields reads "k=v,k=v".
func fields(flag, spec string) (map[string]string, error) {
	out := map[string]string{}
	for f := range strings.SplitSeq(spec, ",") {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("invalid --%s %q: field %q must be a key=value pair", flag, spec, f)
		}
		out[strings.ToLower(strings.TrimSpace(k))] = v
	}
	return out, nil
}

func (s *session) setBuildCaches(b *buildclient.Build, c *cli.Context) error {
	for flag, to := range map[string]*[]buildclient.Cache{"cache-from": &b.CacheFrom, "cache-to": &b.CacheTo} {
		for _, spec := range c.StringSlice(flag) {
			if !strings.Contains(spec, "=") {
				*to = append(*to, buildclient.Cache{Type: "registry", Attrs: map[string]string{"ref": spec}})
				continue
			}
			attrs, err := fields(flag, spec)
			if err != nil {
				return err
			}
			cache := buildclient.Cache{Type: attrs["type"], Attrs: attrs}
			delete(attrs, "type")
			switch cache.Type {
			case "":
				return fmt.Errorf("invalid --%s %q: type is missing: want type=registry,ref=… or type=local,…", flag, spec)
			case "local":
				ok, err := s.localCache(&cache, flag)
				if err != nil {
					return fmt.Errorf("invalid --%s %q: %w", flag, spec, err)
				}
				if !ok {
					continue
				}
			}
			*to = append(*to, cache)
		}
	}
	return nil
}

// localCache sets the directory of a cache, and which of what is there is meant. ok is false
// if there is no cache yet to be taken from it.
func (s *session) localCache(cache *buildclient.Cache, flag string) (ok bool, err error) {
	key := map[string]string{"cache-from": "src", "cache-to": "dest"}[flag]
	if cache.Dir = cache.Attrs[key]; cache.Dir == "" {
		return false, fmt.Errorf("%s is required", key)
	}
	if flag == "cache-to" || cache.Attrs["digest"] != "" {
		return true, nil
	}
	d, err := buildclient.FindInLayout(cache.Dir, cache.Attrs["tag"])
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(s.stderr, "WARNING: there is no cache in %s yet\n", cache.Dir)
		return false, nil
	}
	cache.Attrs["digest"] = d.String()
	return true, err
}

// buildSecrets reads "id=x,src=FILE", "id=x,env=VAR" and "id=x" (variable x, or file x).
func buildSecrets(list []string) (map[string]buildclient.Secret, error) {
	out := map[string]buildclient.Secret{}
	for _, spec := range list {
		f, err := fields("secret", spec)
		if err != nil {
			return nil, err
		}
		id, env, src := f["id"], f["env"], f["src"]
		if src == "" {
			src = f["source"]
		}
		for k := range f {
			switch k {
			case "id", "env", "src", "source", "type":
			default:
				return nil, fmt.Errorf("invalid --secret %q: unexpected key %q", spec, k)
			}
		}
		if id == "" {
			return nil, fmt.Errorf("invalid --secret %q: id is missing", spec)
		}
		if f["type"] == "env" && env == "" {
			env, src = src, ""
		}
		if env == "" && src == "" {
			if _, ok := os.LookupEnv(id); ok && f["type"] != "file" {
				env = id
			} else {
				src = id
			}
		}
		if env != "" {
			v, ok := os.LookupEnv(env)
			if !ok {
				return nil, fmt.Errorf("secret %s: variable %s is not set", id, env)
			}
			out[id] = func() ([]byte, error) { return []byte(v), nil }
			continue
		}
		if _, err := os.Stat(src); err != nil {
			return nil, fmt.Errorf("secret %s: %w", id, err)
		}
		out[id] = func() ([]byte, error) { return os.ReadFile(src) }
	}
	return out, nil
}

// buildAgents reads "default", "ID", "ID=SOCKET" and "ID=KEYFILE[,KEYFILE]".
func buildAgents(list []string) (map[string]buildclient.Agent, error) {
	out := map[string]buildclient.Agent{}
	for _, spec := range list {
		id, rest, _ := strings.Cut(spec, "=")
		if rest == "" {
			rest = os.Getenv("SSH_AUTH_SOCK")
		}
		if rest == "" {
			return nil, fmt.Errorf("invalid --ssh %q: there is no SSH agent (SSH_AUTH_SOCK is not set)", spec)
		}
		agent, err := buildAgent(strings.Split(rest, ","))
		if err != nil {
			return nil, fmt.Errorf("invalid --ssh %q: %w", spec, err)
		}
		out[id] = agent
	}
	return out, nil
}

// buildAgent is the agent at a socket, or one for key files.
func buildAgent(paths []string) (buildclient.Agent, error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Mode()&os.ModeSocket == 0 {
			continue
		}
		if len(paths) > 1 {
			return nil, fmt.Errorf("the socket of an agent, %s, beside other files: use one socket, or key files", path)
		}
		return buildclient.SocketAgent(path), nil
	}
	return buildclient.KeyAgent(paths)
}

// buildAuth are the user's credentials for a registry that the daemon asks about.
func (s *session) buildAuth(ctx context.Context, host string) (string, string, error) {
	server := host
	if host == "registry-1.docker.io" || host == "docker.io" {
		server = "https://index.docker.io/v1/"
	}
	cred, err := s.conf().Credential(ctx, server)
	if err != nil || cred.Empty() {
		return "", "", err
	}
	if cred.IdentityToken != "" {
		return "", cred.IdentityToken, nil
	}
	return cred.Username, cred.Password, nil
}
