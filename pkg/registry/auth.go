package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// maxTokenBody bounds the answer of a token service, in bytes.
const maxTokenBody = 1 << 20

// tokenLifetime is how long a token lasts that does not say so; tokenMargin is how much
// earlier it is renewed. Source: distribution token specification ("expires_in").
const (
	tokenLifetime = 60 * time.Second
	tokenMargin   = 10 * time.Second
)

// Credential proves who asks. The zero Credential is anonymous.
type Credential struct {
	Username, Password string
	// RefreshToken is an identity token, to be exchanged for access tokens.
	RefreshToken string
	// Header is a complete Authorization value, sent as it is.
	Header string
}

// CredentialFunc returns the credential for a registry host that sent the given
// WWW-Authenticate values. host is a mirror's own name, or that of the registry in the
// reference ("registry-1.docker.io" for docker.io), whatever address a hosts file gives it:
// so that nobody's mirror is handed the registry's credential unasked.
type CredentialFunc func(ctx context.Context, host string, challenges []string) (Credential, error)

// authorizer answers the challenges of the hosts of one repository.
type authorizer struct {
	credentials CredentialFunc

	mu    sync.Mutex
	hosts map[string]*hostAuth // by origin
}

// hostAuth is what is known of one origin.
type hostAuth struct {
	header string // of basic authentication, or given
	realm  *challenge
	cred   Credential
	tokens map[string]token // by scope
}

type token struct {
	value   string
	expires time.Time
}

func newAuthorizer(f CredentialFunc) *authorizer {
	if f == nil {
		f = func(context.Context, string, []string) (Credential, error) { return Credential{}, nil }
	}
	return &authorizer{credentials: f, hosts: map[string]*hostAuth{}}
}

// apply sets Authorization on req if the origin has asked for it before.
func (a *authorizer) apply(ctx context.Context, h host, req *http.Request, scopes []string) error {
	a.mu.Lock()
	ha := a.hosts[h.base.Scheme+"://"+h.base.Host]
	a.mu.Unlock()
	if ha == nil {
		return nil
	}
	if ha.realm == nil {
		if ha.header != "" {
			req.Header.Set("Authorization", ha.header)
		}
		return nil
	}
	key := strings.Join(scopes, " ")
	a.mu.Lock()
	t, ok := ha.tokens[key]
	a.mu.Unlock()
	if !ok || time.Now().After(t.expires) {
		var err error
		if t, _, err = fetchToken(ctx, h.client, *ha.realm, ha.cred, tokenRequest{scopes: scopes}); err != nil {
			return fmt.Errorf("authorize with %s: %w", h.base.Host, err)
		}
		a.mu.Lock()
		ha.tokens[key] = t
		a.mu.Unlock()
	}
	if t.value != "" {
		req.Header.Set("Authorization", "Bearer "+t.value)
	}
	return nil
}

// challenged learns from a 401. It reports whether a new attempt has a chance.
func (a *authorizer) challenged(ctx context.Context, h host, resp *http.Response, scopes []string) (bool, error) {
	origin := h.base.Scheme + "://" + h.base.Host
	sent := resp.Request.Header.Get("Authorization")
	values := resp.Header.Values("WWW-Authenticate")
	a.mu.Lock()
	ha := a.hosts[origin]
	if ha != nil {
		key := strings.Join(scopes, " ")
		if t, ok := ha.tokens[key]; ok && sent != "" && sent != "Bearer "+t.value {
			a.mu.Unlock()
			return true, nil // somebody else renewed it meanwhile
		}
		delete(ha.tokens, key)
	}
	a.mu.Unlock()
	for _, c := range parseChallenges(values) {
		if realm := c.params["realm"]; c.scheme == "bearer" && h.base.Scheme == "https" && !h.either && realm != "" && !strings.HasPrefix(realm, "https://") {
			return false, fmt.Errorf("registry %s names a token service without TLS, %q: %w", h.base.Host, realm, errdefs.ErrUnauthenticated)
		}
	}
	cred, err := a.credentials(ctx, h.name, values)
	if err != nil {
		return false, fmt.Errorf("credentials for %s: %w", h.base.Host, err)
	}
	next := &hostAuth{cred: cred, tokens: map[string]token{}}
	for _, c := range parseChallenges(values) {
		switch {
		case cred.Header != "":
			next.header = cred.Header
		case c.scheme == "bearer" && c.params["realm"] != "":
			next.realm = &c
		case c.scheme == "basic" && cred.Username != "":
			next.header = basic(cred)
		default:
			continue
		}
		a.mu.Lock()
		a.hosts[origin] = next
		a.mu.Unlock()
		return next.realm != nil || next.header != sent, nil
	}
	return false, nil
}

func basic(c Credential) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(c.Username, c.Password)
	return r.Header.Get("Authorization")
}

// challenge is one entry of WWW-Authenticate.
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// parseChallenges reads WWW-Authenticate values, several challenges in one included.
// What it cannot read it leaves out. Source: RFC 9110, section 11.6.1.
func parseChallenges(values []string) []challenge {
	var out []challenge
	for _, v := range values {
		s := v
		for {
			s = strings.TrimLeft(s, " \t,")
			if s == "" {
				break
			}
			word, rest := cutToken(s)
			if word == "" {
				break
			}
			trimmed := strings.TrimLeft(rest, " \t")
			if !strings.HasPrefix(trimmed, "=") {
				out = append(out, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
				s = rest
				continue
			}
			if len(out) == 0 {
				break // a parameter of nothing
			}
			var val string
			val, s = cutValue(strings.TrimLeft(trimmed[1:], " \t"))
			out[len(out)-1].params[strings.ToLower(word)] = val
		}
	}
	return out
}

func cutToken(s string) (string, string) {
	i := strings.IndexAny(s, " \t,=\"")
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

// cutValue reads a token or a quoted string.
func cutValue(s string) (string, string) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, " \t,")
		if i < 0 {
			return s, ""
		}
		return s[:i], s[i:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			return b.String(), s[i+1:]
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// tokenRequest is what to ask of a token service.
type tokenRequest struct {
	scopes  []string
	offline bool // ask for an identity token too
}

// fetchToken asks the token service of c for an access token, and returns the identity
// token that may come with it.
func fetchToken(ctx context.Context, hc *http.Client, c challenge, cred Credential, tr tokenRequest) (token, string, error) {
	req, err := newTokenRequest(ctx, c, cred, tr)
	if err != nil {
		return token{}, "", err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return token{}, "", fmt.Errorf("ask token service: %w", classify(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBody))
	if err != nil {
		return token{}, "", fmt.Errorf("read token: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return token{}, "", fmt.Errorf("ask token service: %w", statusError(resp, body))
	}
	var t struct {
		Token        string    `json:"token"`
		AccessToken  string    `json:"access_token"`
		RefreshToken string    `json:"refresh_token"`
		ExpiresIn    int64     `json:"expires_in"`
		IssuedAt     time.Time `json:"issued_at"`
	}
	if err := json.Unmarshal(body, &t); err != nil {
		return token{}, "", fmt.Errorf("parse token: %w", err)
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" {
		return token{}, "", fmt.Errorf("token service %s sent no token: %w", req.URL.Host, errdefs.ErrUnauthenticated)
	}
	life := max(time.Duration(t.ExpiresIn)*time.Second, tokenLifetime)
	return token{t.Token, time.Now().Add(life - tokenMargin)}, t.RefreshToken, nil
}

// newTokenRequest makes the GET of the distribution specification, or the OAuth2 POST
// for an identity token.
func newTokenRequest(ctx context.Context, c challenge, cred Credential, tr tokenRequest) (*http.Request, error) {
	scopes := tr.scopes
	if s := c.params["scope"]; len(scopes) == 0 && s != "" {
		scopes = []string{s}
	}
	realm, err := url.Parse(c.params["realm"])
	if err != nil || realm.Host == "" || (realm.Scheme != "https" && realm.Scheme != "http") {
		return nil, fmt.Errorf("token service %q is not a URL: %w", c.params["realm"], errdefs.ErrUnauthenticated)
	}
	q := url.Values{}
	if s := c.params["service"]; s != "" {
		q.Set("service", s)
	}
	if cred.RefreshToken != "" {
		q.Set("grant_type", "refresh_token")
		q.Set("client_id", "strata")
		q.Set("refresh_token", cred.RefreshToken)
		if len(scopes) > 0 {
			q.Set("scope", strings.Join(scopes, " "))
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(q.Encode()))
		if err != nil {
			return nil, err
		}
		req.GetBody = nil // a redirect must not carry the secret elsewhere
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return req, nil
	}
	for _, s := range scopes {
		q.Add("scope", s)
	}
	if cred.Username != "" {
		q.Set("account", cred.Username)
	}
	if tr.offline {
		q.Set("offline_token", "true")
		q.Set("client_id", "strata")
	}
	for k, v := range realm.Query() {
		if !q.Has(k) {
			q[k] = v
		}
	}
	realm.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return nil, err
	}
	if cred.Username != "" {
		req.SetBasicAuth(cred.Username, cred.Password)
	}
	return req, nil
}

// scope returns what to ask for: "repository:NAME:pull,push".
func scope(repository string, actions ...string) string {
	slices.Sort(actions)
	return "repository:" + repository + ":" + strings.Join(actions, ",")
}
