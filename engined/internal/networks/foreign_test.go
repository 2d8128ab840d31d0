package networks

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// shell runs the commands of another firewall, in the test's netns, and undoes them at the
// end of the test.
func shell(t *testing.T, script, undo string) {
	t.Helper()
	tool := strings.Fields(script)[0]
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("needs %s to be the other firewall", tool)
	}
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "Table does not exist") {
			t.Skipf("needs a kernel with the tables of %s", tool)
		}
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	if undo != "" {
		t.Cleanup(func() {
			if out, err := exec.Command("sh", "-ec", undo).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", undo, err, out)
			}
		})
	}
}

// TestForeignFirewallsAreNamedWithARemedyThatWorks lets another firewall drop what is
// forwarded, reads the remedy, does what it says, and sees packets pass and the warning go.
func TestForeignFirewallsAreNamedWithARemedyThatWorks(t *testing.T) {
	const firewalld = `nft add table inet firewalld
nft 'add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }'
nft add rule inet firewalld filter_FORWARD ct state established,related accept
nft add rule inet firewalld filter_FORWARD reject with icmpx type admin-prohibited`
	tests := []struct {
		name, script, undo, rule, remedy string
	}{
		{"ufw", "iptables -P FORWARD DROP", "nft delete table ip filter", "table ip filter, chain FORWARD: policy drop", "iptables -I FORWARD -i strata0 -j ACCEPT"},
		{"docker", "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER", "nft delete table ip filter", "policy drop", "iptables -I DOCKER-USER -i strata0 -j ACCEPT"},
		{"legacy", "iptables-legacy -P FORWARD DROP", "iptables-legacy -F; iptables-legacy -P FORWARD ACCEPT", "legacy iptables, table ip filter, chain FORWARD: policy drop", "iptables-legacy -I FORWARD -i strata0 -j ACCEPT"},
		{"an nft table", "nft add table inet mine; nft 'add chain inet mine passing { type filter hook forward priority 5; policy drop; }'", "nft delete table inet mine", "table inet mine, chain passing: policy drop", "nft insert rule inet mine passing iifname strata0 accept"},
		{"a last rule", firewalld, "nft delete table inet firewalld", "table inet firewalld, chain filter_FORWARD: the last rule rejects", "firewall-cmd --permanent --zone=trusted --add-interface=strata0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			lan := l.lan()
			serve(t, lan, 8000)
			box := l.container("c")
			reach(t, "outside, before", box.NetnsPath, "tcp", "192.0.2.2:8000", "")
			if got := l.Obstacles(); len(got) != 0 {
				t.Errorf("obstacles on an empty host: %+v", got)
			}
			shell(t, tt.script, tt.undo)
			unreachable(t, "outside", box.NetnsPath, "tcp", "192.0.2.2:8000")
			got := l.Obstacles()
			if len(got) != 1 || !strings.Contains(got[0].Rule, tt.rule) || !strings.Contains(got[0].Remedy, tt.remedy) {
				t.Fatalf("obstacles = %+v, want rule %q and remedy %q", got, tt.rule, tt.remedy)
			}
			if strings.HasPrefix(got[0].Remedy, "firewall-cmd") {
				return // nobody here to obey it
			}
			shell(t, got[0].Remedy, "")
			reach(t, "outside, after the remedy", box.NetnsPath, "tcp", "192.0.2.2:8000", "")
			if got := l.Obstacles(); len(got) != 0 {
				t.Errorf("obstacles after the remedy: %+v", got)
			}
		})
	}
}

func TestRespectHostLeavesPublishedPortsToTheHostsOwnRules(t *testing.T) {
	l := newLab(t, func(c *Config) { c.RespectHost = true })
	lan := l.lan()
	web := l.container("web", publish(
		PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8080}, PortMapping{Proto: "tcp", ContainerPort: 80, HostPort: 8081},
		PortMapping{Proto: "udp", ContainerPort: 80, HostPort: 8080}, PortMapping{Proto: "udp", ContainerPort: 80, HostPort: 8081}))
	serve(t, web.NetnsPath, 80)
	for _, proto := range []string{"tcp", "udp"} {
		reach(t, "LAN, without rules", lan, proto, "192.0.2.1:8080", web.Endpoints[0].Gateway4.String())
	}
	shell(t, "nft add table inet mine; nft 'add chain inet mine entry { type filter hook input priority 0; policy drop; }'; nft add rule inet mine entry ct state established,related accept; nft add rule inet mine entry iifname lo accept; nft add rule inet mine entry meta l4proto { tcp, udp } th dport 8081 accept; nft 'add chain inet mine passing { type filter hook forward priority 5; policy drop; }'", "nft delete table inet mine")
	for _, proto := range []string{"tcp", "udp"} {
		unreachable(t, "LAN, a port that INPUT drops", lan, proto, "192.0.2.1:8080")
		reach(t, "LAN, a port that INPUT accepts, although FORWARD drops", lan, proto, "192.0.2.1:8081", "")
		reach(t, "the host itself", "", proto, "127.0.0.1:8080", "")
	}
	if _, err := l.tryContainer("signals", publish(PortMapping{Proto: "sctp", ContainerPort: 53})); !errdefs.IsNotImplemented(err) {
		t.Errorf("an sctp port = %v, want ErrNotImplemented", err)
	}
}
