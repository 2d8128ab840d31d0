#!/bin/bash
# What `make bench` does: times our stack and Debian's stock one in the same run, each in a
# network namespace and root of its own, prints "row: ours / stock / ratio" and writes
# bench.json. Times are medians of interleaved runs in milliseconds, memory is in KiB.
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${BENCH_RUNS:-15}
work=$(mktemp -d -t bench.XXXXXX)
space=bench-$$
declare -a pids=()
cleanup() {
	trap - EXIT
	engine ps -aq 2>/dev/null | xargs -r "$PWD/bin/engine" -H "$ours" rm -f >/dev/null 2>&1 || true
	docker -H "$stock" ps -aq 2>/dev/null | xargs -r docker -H "$stock" rm -f >/dev/null 2>&1 || true
	local pid
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
	for pid in $(pgrep -f "$work" || true); do kill -9 "$pid" 2>/dev/null || true; done
	awk -v root="$work/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r -n1 umount -l 2>/dev/null || true
	ip netns del "$space" 2>/dev/null || true
	ip netns del "$space-stock" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
ours=unix://$work/ours/engine.sock
stock=unix://$work/stock/docker.sock
engine() { "$PWD/bin/engine" -H "$ours" "$@"; }
mkdir -p "$work"/{ours,stock}
export DOCKER_CONFIG=$work
for ns in "$space" "$space-stock"; do
	ip netns add "$ns"
	ip -n "$ns" link set lo up
done

# --- both stacks
in_ns() { local ns=$1; shift; nsenter --net="/run/netns/$ns" "$@"; }
in_ns "$space" bin/supervisord -a "$work/ours/supervisor.sock" --root "$work/ours/lib" --state "$work/ours/run" >"$work/ours/supervisord.log" 2>&1 &
pids+=($!)
in_ns "$space" bin/engined -H "$ours" --containerd "$work/ours/supervisor.sock" --data-root "$work/ours/engine" --exec-root "$work/ours/exec" --pidfile "$work/ours/pid" >"$work/ours/engined.log" 2>&1 &
pids+=($!)
cat >"$work/stock/containerd.toml" <<EOF
version = 2
root = "$work/stock/cd-root"
state = "$work/stock/cd-run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$work/stock/containerd.sock"
EOF
containerd -c "$work/stock/containerd.toml" >"$work/stock/containerd.log" 2>&1 &
pids+=($!)
in_ns "$space-stock" dockerd -H "$stock" --containerd "$work/stock/containerd.sock" --data-root "$work/stock/root" --exec-root "$work/stock/exec" --pidfile "$work/stock/pid" --cgroup-parent /bench-stock >"$work/stock/dockerd.log" 2>&1 &
pids+=($!)
for client in "$PWD/bin/engine -H $ours" "docker -H $stock"; do
	for _ in $(seq 200); do $client info >/dev/null 2>&1 && break; sleep 0.1; done
done

# --- one image on both: a static program
mkdir -p "$work/rootfs/bin"
cp "$(command -v busybox)" "$work/rootfs/bin/busybox"
ln -s busybox "$work/rootfs/bin/true"
ln -s busybox "$work/rootfs/bin/sleep"
tar -C "$work/rootfs" -c . | docker -H "$stock" import - bench:1 >/dev/null
docker -H "$stock" save bench:1 | engine load -q >/dev/null

rows=()
row() { # row NAME OURS STOCK UNIT
	local ratio
	ratio=$(awk -v a="$2" -v b="$3" 'BEGIN { printf "%.2f", a / b }')
	printf '%-46s %10s / %10s %-4s %6s\n' "$1" "$2" "$3" "$4" "$ratio"
	rows+=("{\"row\":\"$1\",\"ours\":$2,\"stock\":$3,\"unit\":\"$4\",\"ratio\":$ratio}")
}
# compare NAME OURS STOCK: medians of interleaved runs
compare() {
	local i start
	: >"$work/a"; : >"$work/b"
	$2 >/dev/null 2>&1; $3 >/dev/null 2>&1
	for ((i = 0; i < runs; i++)); do
		start=${EPOCHREALTIME/./}; $2 >/dev/null; echo $((${EPOCHREALTIME/./} - start)) >>"$work/a"
		start=${EPOCHREALTIME/./}; $3 >/dev/null; echo $((${EPOCHREALTIME/./} - start)) >>"$work/b"
	done
	median() { sort -n "$1" | awk '{ v[NR] = $1 } END { printf "%.1f", v[int((NR + 1) / 2)] / 1000 }'; }
	row "$1" "$(median "$work/a")" "$(median "$work/b")" ms
}
memory() { awk -v key="$2:" '$1 == key { print $2 }' "/proc/$1/smaps_rollup"; }

printf '%-46s %10s / %10s %-4s %6s\n' '' ours stock '' ratio
compare 'run --rm --network none true (stock CLI)' "docker -H $ours run --rm --network none bench:1 /bin/true" "docker -H $stock run --rm --network none bench:1 /bin/true"
compare 'run --rm --network none true (engine CLI)' "$PWD/bin/engine -H $ours run --rm --network none bench:1 /bin/true" "docker -H $stock run --rm --network none bench:1 /bin/true"
compare 'run --rm true, default bridge (stock CLI)' "docker -H $ours run --rm bench:1 /bin/true" "docker -H $stock run --rm bench:1 /bin/true"
engine run -d --name bench --network none bench:1 /bin/sleep 10000 >/dev/null
docker -H "$stock" run -d --name bench --network none bench:1 /bin/sleep 10000 >/dev/null
compare 'exec true (stock CLI)' "docker -H $ours exec bench /bin/true" "docker -H $stock exec bench /bin/true"
compare 'exec true (engine CLI)' "$PWD/bin/engine -H $ours exec bench /bin/true" "docker -H $stock exec bench /bin/true"
sleep 1 # a shim gives back what it touched when it is idle again
our_shim=$(pgrep -f "containerd-shim-strata-v2.*$work" | head -1)
stock_shim=$(pgrep -f "containerd-shim-runc-v2.*$work" | head -1)
row 'shim RSS' "$(memory "$our_shim" Rss)" "$(memory "$stock_shim" Rss)" KiB
row 'shim PSS' "$(memory "$our_shim" Pss)" "$(memory "$stock_shim" Pss)" KiB
rss() { local sum=0 pid; for pid in "$@"; do sum=$((sum + $(memory "$pid" Rss))); done; echo $sum; }
daemon() { pgrep -f "^[^ ]*$1.*$work" | head -1; }
row 'RSS of both daemons, one container' "$(rss "$(daemon supervisord)" "$(daemon engined)")" "$(rss "$(daemon containerd)" "$(daemon dockerd)")" KiB

. integration/bench/chain.sh
. integration/bench/networks.sh
. integration/bench/build.sh

# --- the runtime alone, on docker's own bundle
bundle=$(echo "$work"/stock/cd-run/io.containerd.runtime.v2.task/moby/*/)
mkdir -p "$work/bundle"
jq '.process.args = ["/bin/true"] | .process.terminal = false | .root.path = "'"$work"'/rootfs" | .hooks = {} | .mounts |= map(select(.source | startswith("/") | not)) | .linux.cgroupsPath = "/bench-runtime"' \
	"$bundle/config.json" >"$work/bundle/config.json"
for stock_runtime in runc crun; do
	# crun before 1.14 refuses hosts with cgroup v1 and v2 side by side.
	$stock_runtime --root "$work/r2" run --bundle "$work/bundle" probe >/dev/null 2>&1 || { echo "$stock_runtime does not run here"; continue; }
	compare "ocirun run (docker's spec) beside $stock_runtime" "bin/ocirun --root $work/r1 run --bundle $work/bundle x" "$stock_runtime --root $work/r2 run --bundle $work/bundle y"
done
printf '{"runs":%d,"kernel":"%s","rows":[%s]}\n' "$runs" "$(uname -r)" "$(IFS=,; echo "${rows[*]}")" | jq . >bench.json
echo 'written to bench.json'
