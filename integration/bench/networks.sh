# Networks: sourced by bench.sh, whose functions and stacks it uses. A stock dockerd starts
# two processes for each published port, so that 10,000 are not asked of it, and what takes
# it very long comes last, with a limit. All rows together take less than eight minutes.
stock_limit=${BENCH_STOCK_SECONDS:-100} # for a container with 999 ports
network_runs=$((runs < 7 ? runs : 7))
network_end=$((SECONDS + 450 - stock_limit)) # when it is too late for stock's 999 ports

clients=("$PWD/bin/engine -H $ours" "docker -H $stock")
spaces=("$space" "$space-stock")
CGO_ENABLED=0 go -C integration build -o "$work/netload" ./bench/netload
trap 'ip netns del "$space-lan" 2>/dev/null || true; cleanup' EXIT

alone() { # alone NAME OURS UNIT: stock was not measured
	printf '%-46s %10s / %10s %-4s\n' "$1" "$2" - "$3"
	rows+=("{\"row\":\"$1\",\"ours\":$2,\"stock\":null,\"unit\":\"$3\",\"ratio\":null}")
}
# elapsed SECONDS COMMAND…: milliseconds, or failure after so many seconds
elapsed() {
	local limit=$1 start=${EPOCHREALTIME/./}
	shift
	timeout "$limit" "$@" >/dev/null 2>&1 || return 1
	awk -v us=$((${EPOCHREALTIME/./} - start)) 'BEGIN { printf "%.1f\n", us / 1000 }'
}
middle() { sort -n | awk 'NF { v[++n] = $1 } END { print v[int((n + 1) / 2)] }'; }
# beside NAME OURS STOCK: medians of interleaved runs, each at most 20 s
beside() {
	local i
	: >"$work/a"; : >"$work/b"
	elapsed 20 $2 >/dev/null || true
	elapsed 20 $3 >/dev/null || true
	for ((i = 0; i < network_runs; i++)); do
		elapsed 20 $2 >>"$work/a" || true
		elapsed 20 $3 >>"$work/b" || true
	done
	row "$1" "$(middle <"$work/a")" "$(middle <"$work/b")" ms
}
run_true() { echo "$1 run --rm ${*:2} bench:1 /bin/true"; }

# --- what a bridge adds to a start: four kinds of runs, interleaved
kinds=(ours-none ours-bridge stock-none stock-bridge)
for ((i = 0; i <= network_runs; i++)); do
	for kind in "${kinds[@]}"; do
		client=${clients[0]}
		[ "${kind%-*}" = ours ] || client=${clients[1]}
		[ "$i" = 0 ] && : >"$work/$kind"
		elapsed 20 $(run_true "$client" --network "${kind#*-}") >"$work/once" || true
		[ "$i" = 0 ] || cat "$work/once" >>"$work/$kind" # the first one warms up
	done
done
minus() { awk -v a="$(middle <"$work/$1-bridge")" -v b="$(middle <"$work/$1-none")" 'BEGIN { printf "%.1f", a - b }'; }
row 'run on a bridge minus run without network' "$(minus ours)" "$(minus stock)" ms
beside 'run --rm -p, the 1st port' "$(run_true "${clients[0]}" -p 8080:80)" "$(run_true "${clients[1]}" -p 8080:80)"

# --- 50 containers on one network, ten clients at a time
fifty() { seq 50 | xargs -P 10 -I{} $1 run -d --name 'fifty-{}' --network fifty bench:1 /bin/sleep 10000; }
times=()
for client in "${clients[@]}"; do
	$client network create fifty >/dev/null
	start=${EPOCHREALTIME/./}
	fifty "$client" >/dev/null
	times+=("$(awk -v us=$((${EPOCHREALTIME/./} - start)) 'BEGIN { printf "%.1f", us / 1000 }')")
done
row '50 containers in parallel on one network' "${times[0]}" "${times[1]}" ms

# --- names: from inside one of the fifty, eight clients ask for another one
inside() { # inside CLIENT CONTAINER COMMAND…: in a container's netns
	exec nsenter -t "$($1 inspect -f '{{.State.Pid}}' "$2")" -n "${@:3}"
}
dns() { (inside "$1" fifty-1 "$work/netload" dns 127.0.0.11:53 fifty-2 8 3s); }
row 'DNS queries a second for a neighbour' "$(dns "${clients[0]}")" "$(dns "${clients[1]}")" 1/s
times=()
for client in "${clients[@]}"; do times+=("$(elapsed 60 $client rm -f $(seq -f 'fifty-%g' 50) || echo 60000)"); done
row 'rm -f of those 50' "${times[0]}" "${times[1]}" ms
for client in "${clients[@]}"; do $client network rm fifty >/dev/null; done

# --- through NAT: from a neighbour's netns and from the host itself to a published port
throughput() { # throughput NETNS CLIENT: MB/s from the LAN, then by 127.0.0.1
	local ns=$1 client=$2
	ip netns add "$space-lan"
	ip -n "$ns" link add lan0 type veth peer name eth0 netns "$space-lan"
	ip -n "$ns" addr add 192.0.2.1/24 dev lan0
	ip -n "$ns" link set lan0 up
	ip -n "$space-lan" addr add 192.0.2.2/24 dev eth0
	ip -n "$space-lan" link set eth0 up
	$client run -d --name sink -p 5001:5001 bench:1 /bin/sleep 10000 >/dev/null
	inside "$client" sink "$work/netload" sink :5001 >/dev/null 2>&1 &
	local sink=$!
	for _ in $(seq 50); do in_ns "$space-lan" "$work/netload" send 192.0.2.1:5001 1ms >/dev/null 2>&1 && break; sleep 0.1; done
	in_ns "$space-lan" "$work/netload" send 192.0.2.1:5001 4s
	in_ns "$ns" "$work/netload" send 127.0.0.1:5001 4s
	kill "$sink"
	wait "$sink" 2>/dev/null || true
	$client rm -f sink >/dev/null
	ip netns del "$space-lan"
}
mapfile -t a < <(throughput "$space" "${clients[0]}")
mapfile -t b < <(throughput "$space-stock" "${clients[1]}")
row 'TCP from a neighbour to a published port' "${a[0]}" "${b[0]}" MB/s
row 'TCP from the host by 127.0.0.1 to it' "${a[1]}" "${b[1]}" MB/s

# --- many ports
# Memory of what serves ports: the daemon and its proxies, shared pages divided (PSS).
port_memory() { local sum=0 pid; for pid in "$1" $(pgrep -P "$1" docker-proxy || true); do sum=$((sum + $(memory "$pid" Pss))); done; echo $sum; }
times=()
for client in "${clients[@]}"; do
	times+=("$(elapsed 60 $client run -d --name some -p 21000-21205:1000-1205 bench:1 /bin/sleep 10000 || echo 60000)")
	times+=("$(elapsed 60 $client rm -f some || echo 60000)")
done
row 'run -d with 206 ports' "${times[0]}" "${times[2]}" ms
row 'rm -f of it' "${times[1]}" "${times[3]}" ms

engined=$(daemon engined) dockerd=$(daemon dockerd)
before=$(port_memory "$engined")
thousand='run -d --name thousand -p 22000-22998:1000-1998 bench:1 /bin/sleep 10000'
time_ours=$(elapsed 60 ${clients[0]} $thousand)
memory_ours=$(($(port_memory "$engined") - before))
one_more() { for _ in $(seq "$network_runs"); do elapsed 20 $(run_true "$1" -p 8080:80) || true; done | middle; }
next_ours=$(one_more "${clients[0]}")
most=9 # thousands more
[ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge 13000 ] || most=$((($(ulimit -Hn) - 4000) / 1000)) # a port holds a descriptor for each family
more=()
for i in $(seq "$most"); do
	more+=("$(engine run -d -p "0.0.0.0:$((22000 + i * 1000))-$((22999 + i * 1000)):1000-1999" bench:1 /bin/sleep 10000)")
done
last_ours=$(one_more "${clients[0]}")
gone_ours=$(elapsed 60 ${clients[0]} rm -f thousand)
engine rm -f "${more[@]}" >/dev/null

before=$(port_memory "$dockerd")
if [ "$SECONDS" -lt "$network_end" ] && time_stock=$(elapsed "$stock_limit" ${clients[1]} $thousand); then
	memory_stock=$(($(port_memory "$dockerd") - before))
	next_stock=$(one_more "${clients[1]}")
	gone_stock=$(elapsed 60 ${clients[1]} rm -f thousand || echo 60000)
	row 'run -d with 999 ports' "$time_ours" "$time_stock" ms
	row 'memory for 999 ports (PSS)' "$memory_ours" "$memory_stock" KiB
	row 'run --rm -p, the 1,000th port' "$next_ours" "$next_stock" ms
	row 'rm -f of a container with 999 ports' "$gone_ours" "$gone_stock" ms
else
	echo "stock did not publish 999 ports within $stock_limit s"
	timeout 60 docker -H "$stock" rm -f thousand >/dev/null 2>&1 || true
	alone 'run -d with 999 ports' "$time_ours" ms
	alone 'memory for 999 ports (PSS)' "$memory_ours" KiB
	alone 'run --rm -p, the 1,000th port' "$next_ours" ms
	alone 'rm -f of a container with 999 ports' "$gone_ours" ms
fi
alone "run --rm -p, the $(((most + 1) * 1000))th port" "$last_ours" ms
