package httpapi

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"strata/engined/internal/filters"
	"strata/engined/internal/networks"
)

// TestNetworkLooksAsDockerdPrintsIt compares with what dockerd 20.10 printed, and the
// EnableIPv4 that newer ones add.
func TestNetworkLooksAsDockerdPrintsIt(t *testing.T) {
	n := networks.Network{
		ID: "70be", Name: "n1", Created: time.Date(2026, 11, 22, 4, 5, 48, 87429200, time.UTC), Driver: "bridge", EnableIPv4: true,
		IPAM: networks.IPAM{Driver: "default", Pools: []networks.Pool{{
			Subnet: netip.MustParsePrefix("172.18.0.0/16"), Gateway: netip.MustParseAddr("172.18.0.1"),
		}}},
		Labels: map[string]string{"a": "b"},
	}
	got, err := json.Marshal(network.Inspect{Network: toNetwork(n), Containers: map[string]network.EndpointResource{}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"Name":"n1","Id":"70be","Created":"2026-11-22T04:05:48.0874292Z","Scope":"local","Driver":"bridge","EnableIPv4":true,"EnableIPv6":false,` +
		`"IPAM":{"Driver":"default","Options":null,"Config":[{"Subnet":"172.18.0.0/16","Gateway":"172.18.0.1"}]},"Internal":false,"Attachable":false,` +
		`"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Options":{},"Labels":{"a":"b"},"Containers":{}}`
	if string(got) != want {
		t.Errorf("network is\n%s, want\n%s", got, want)
	}
}

func TestNetworkRequestsThatCannotBeAreRefused(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	for name, body := range map[string]network.CreateRequest{
		"a gateway without a subnet": {Name: "n", IPAM: &network.IPAM{Config: []network.IPAMConfig{{Gateway: addr}}}},
	} {
		if _, err := createNetwork(body); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want class ErrInvalidArgument", name, err)
		}
	}
	if _, err := createNetwork(network.CreateRequest{Name: "n", Scope: "swarm"}); !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), "This node is not a swarm manager.") {
		t.Errorf("a swarm network: %v", err)
	}
	ep := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv6Address: addr}}
	if err := checkEndpoint(ep); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an IPv4 address as IPv6: %v", err)
	}
}

func TestNetworkFilters(t *testing.T) {
	bridge := networks.Network{ID: "abc", Name: "bridge", Driver: "bridge"}
	app := networks.Network{ID: "def", Name: "app_default", Driver: "bridge", Labels: map[string]string{"com.docker.compose.project": "app"}}
	for filter, want := range map[string]string{
		`{"type":{"custom":true}}`:                          "app_default",
		`{"type":{"builtin":true}}`:                         "bridge",
		`{"name":["app"]}`:                                  "app_default",
		`{"id":{"ab":true}}`:                                "bridge",
		`{"label":{"com.docker.compose.project=app":true}}`: "app_default",
		`{"driver":{"bridge":true}}`:                        "bridge app_default",
		`{"scope":{"swarm":true}}`:                          "",
	} {
		f, err := filters.Parse(filter, "driver", "id", "label", "name", "scope", "type")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range []networks.Network{bridge, app} {
			if matchNetwork(f, n) {
				got = append(got, n.Name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", filter, got, want)
		}
	}
}
