#!/bin/bash
# Runs inside the VM as a user: ocirun as runc's users without privileges know it.
# rootless.sh without|delegated
set -euo pipefail
fail() { echo "FAILED: $*"; exit 1; }
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
[ "$(id -u)" != 0 ]
bundle=$HOME/bundle-$1
mkdir -p "$bundle/rootfs"/{bin,proc,sys,dev,etc,tmp}
cp /bin/busybox "$bundle/rootfs/bin/"
for applet in sh id cat sleep ls true; do ln -s busybox "$bundle/rootfs/bin/$applet"; done
cd "$bundle"
ocirun spec --rootless
sed -i 's/"terminal": true/"terminal": false/' config.json
change() { # change PYTHONLIKE-KEY VALUE: the sample has each key once
	sed -i "s|$1|$2|" config.json
	grep -qF "${3:-$2}" config.json
}
change '"sh"' '"sh", "-c", "id -u; cat /proc/self/uid_map; cat /proc/self/cgroup; exit 5"' 'exit 5'
code=0
ocirun run first >out || code=$?
cat out
[ $code = 5 ]
[ "$(head -1 out)" = 0 ]
[ "$(awk 'NR == 2 { print $1, $2, $3 }' out)" = '0 1000 1' ]

# More ids than one: newuidmap and newgidmap, with what /etc/subuid grants.
read -r _ first count < <(grep ^user: /etc/subuid | tr : ' ')
sed -i "s|\"hostID\": 1000,|\"hostID\": $first,|; s|\"size\": 1\$|\"size\": $count|" config.json
chmod 755 "$HOME" "$bundle"
ocirun run many >out || code=$?
[ "$(awk 'NR == 2 { print $1, $2, $3 }' out)" = "0 $first $count" ]

if [ "$1" = delegated ]; then
	own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
	mkdir "$own/shell"
	echo $$ >"$own/shell/cgroup.procs" # no processes beside cgroups with controllers
	rm config.json
	ocirun spec --rootless
	sed -i 's/"terminal": true/"terminal": false/' config.json
	path=${own#/sys/fs/cgroup}/box
	change '"sh"' '"sleep", "1000"'
	change '"linux": {' "\"linux\": { \"cgroupsPath\": \"$path\", \"resources\": { \"memory\": { \"limit\": 67108864 }, \"pids\": { \"limit\": 50 } }," "$path"
	ocirun create box </dev/null >log 2>&1 || { cat log; exit 1; }
	ocirun start box
	[ "$(cat "$own/box/memory.max")" = 67108864 ]
	[ "$(cat "$own/box/pids.max")" = 50 ]
	ocirun pause box
	ocirun state box | grep '"status": "paused"'
	ocirun resume box
	ocirun update --memory 32m box 2>message || cat message
	[ "$(cat "$own/box/memory.max")" = 33554432 ]
	[ "$(ocirun exec box cat /proc/self/cgroup)" = 0::/ ]
	ocirun ps box
	ocirun events --stats box | grep -q '"type":"stats"'
	ocirun kill box KILL
	for _ in $(seq 50); do ocirun delete box 2>message && break; sleep 0.1; done
	! ocirun state box 2>/dev/null
	[ ! -d "$own/box" ]
else
	rm config.json
	ocirun spec --rootless
	sed -i 's/"terminal": true/"terminal": false/' config.json
	change '"linux": {' '"linux": { "resources": { "memory": { "limit": 67108864 } },' 67108864
	! ocirun run limited 2>message
	grep -i 'permission denied' message
fi
echo "rootless $1: good"
