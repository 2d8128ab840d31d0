# Networks: sourced by bench.sh, whose functions and stacks it uses. A stock dockerd starts
# two processes for each published port, so that 10,000 are not asked of it.
stock_limit=${BENCH_STOCK_SECONDS:-120} # for what may take very long

clients=("$PWD/bin/engine -H $ours" "docker -H $stock")
elapsed() { local start=${EPOCHREALTIME/./}; "$@" >/dev/null || return 1; awk -v us=$((${EPOCHREALTIME/./} - start)) 'BEGIN { printf "%.1f", us / 1000 }'; }
alone() { # alone NAME OURS UNIT: stock was not measured
	printf '%-46s %10s / %10s %-4s\n' "$1" "$2" - "$3"
	rows+=("{\"row\":\"$1\",\"ours\":$2,\"stock\":null,\"unit\":\"$3\",\"ratio\":null}")
}
publish() { echo "$1 run --rm -p $2:80 bench:1 /bin/true"; }
# Memory of what serves ports: the daemon and its proxies, shared pages divided (PSS).
port_memory() { local sum=0 pid; for pid in "$1" $(pgrep -P "$1" docker-proxy || true); do sum=$((sum + $(memory "$pid" Pss))); done; echo $sum; }

compare 'run --rm -p, the 1st port' "$(publish "${clients[0]}" 8080)" "$(publish "${clients[1]}" 8080)"
all_runs=$runs
runs=1 # a stock dockerd takes 20 s
compare 'run --rm with 206 ports' "${clients[0]} run --rm -p 21000-21205:1000-1205 bench:1 /bin/true" "${clients[1]} run --rm -p 21000-21205:1000-1205 bench:1 /bin/true"
runs=$all_runs

engined=$(daemon engined) dockerd=$(daemon dockerd)
before_ours=$(port_memory "$engined") before_stock=$(port_memory "$dockerd")
thousand='run -d --name thousand -p 22000-22998:1000-1998 bench:1 /bin/sleep 10000'
time_ours=$(elapsed ${clients[0]} $thousand)
if time_stock=$(elapsed timeout "$stock_limit" ${clients[1]} $thousand); then
	row 'run -d with 999 ports' "$time_ours" "$time_stock" ms
	row 'memory for 999 ports (PSS)' $(($(port_memory "$engined") - before_ours)) $(($(port_memory "$dockerd") - before_stock)) KiB
	compare 'run --rm -p, the 1,000th port' "$(publish "${clients[0]}" 8080)" "$(publish "${clients[1]}" 8080)"
else
	alone 'run -d with 999 ports' "$time_ours" ms
	alone 'memory for 999 ports (PSS)' $(($(port_memory "$engined") - before_ours)) KiB
fi
docker -H "$stock" rm -f thousand >/dev/null 2>&1 || true
most=9 # thousands more
more=()
[ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge 24000 ] || most=$((($(ulimit -Hn) - 1000) / 2000 - 1)) # a port holds two descriptors
for i in $(seq "$most"); do
	more+=("$(engine run -d -p "$((22000 + i * 1000))-$((22999 + i * 1000)):1000-1999" bench:1 /bin/sleep 10000)")
done
: >"$work/many"
for _ in $(seq "$runs"); do elapsed $(publish "${clients[0]}" 8080) >>"$work/many"; echo >>"$work/many"; done
alone "run --rm -p, the $(((most + 1) * 1000))th port" "$(sort -n "$work/many" | awk 'NF { v[++n] = $1 } END { print v[int((n + 1) / 2)] }')" ms
engine rm -f thousand "${more[@]}" >/dev/null

fifty() { # fifty CLIENT: 50 containers on one network, ten clients at a time
	seq 50 | xargs -P 10 -I{} $1 run -d --name "fifty-{}" --network fifty bench:1 /bin/sleep 10000
}
for client in "${clients[@]}"; do $client network create fifty >/dev/null; done
row '50 containers in parallel on one network' "$(elapsed fifty "${clients[0]}")" "$(elapsed fifty "${clients[1]}")" ms
for client in "${clients[@]}"; do
	$client rm -f $(seq -f 'fifty-%g' 50) >/dev/null
	$client network rm fifty >/dev/null
done

# --- through NAT: from a neighbour's netns to a published port
throughput() { # throughput NETNS CLIENT: MB/s of 2 GiB
	local ns=$1 client=$2 start bytes=$((2 << 30))
	ip netns add "$ns-lan"
	ip -n "$ns" link add lan0 type veth peer name eth0 netns "$ns-lan"
	ip -n "$ns" addr add 192.0.2.1/24 dev lan0
	ip -n "$ns" link set lan0 up
	ip -n "$ns-lan" addr add 192.0.2.2/24 dev eth0
	ip -n "$ns-lan" link set eth0 up
	$client run -d --name sink -p 5001:5001 bench:1 /bin/busybox nc -ll -p 5001 -e /bin/busybox wc -c >/dev/null
	for _ in $(seq 50); do echo | in_ns "$ns-lan" busybox nc -w 1 192.0.2.1 5001 >/dev/null 2>&1 && break; sleep 0.1; done
	start=${EPOCHREALTIME/./}
	head -c "$bytes" /dev/zero | in_ns "$ns-lan" busybox nc 192.0.2.1 5001 >"$work/sunk"
	awk -v bytes="$bytes" -v us=$((${EPOCHREALTIME/./} - start)) 'BEGIN { printf "%.0f", bytes / us }'
	[ "$(tr -d '[:space:]' <"$work/sunk")" = "$bytes" ] || echo "the sink counted $(cat "$work/sunk") of $bytes bytes" >&2
	$client rm -f sink >/dev/null
	ip netns del "$ns-lan"
}
row 'TCP from a neighbour to a published port' "$(throughput "$space" "${clients[0]}")" "$(throughput "$space-stock" "${clients[1]}")" MB/s
