#!/bin/bash
# Part of `make vm`: the tests of networks that a host's kernel may lack the modules for, in
# the Debian VM: ipvlan, VLANs, dummy interfaces, SCTP; with macvlan and the paths of published
# ports on that kernel.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${STRATA_VM_CACHE:-$HOME/.cache/strata-vm}
integration/vm/build.sh "$cache"
job=$(mktemp -d)
trap 'rm -rf "$job"' EXIT
CGO_ENABLED=0 go test -c -o "$job/networks.test" ./engined/internal/networks
cat >"$job/run.sh" <<'EOF'
#!/bin/bash
set -o pipefail
cd "$(dirname "$0")"
modprobe -a ipvlan macvlan 8021q dummy sctp br_netfilter
./networks.test -test.v -test.run 'IPvlan|Macvlan|VLAN|Uplink|SCTP|PublishedPort|GatewayModes' 2>&1 | tee log | grep -E '^ *(---|panic|[a-z_]+_test.go)|^(PASS|FAIL)' || exit 1
! grep -e '--- SKIP' log
EOF
chmod +x "$job/run.sh"
integration/vm/boot.sh "$cache" "$job" 900
