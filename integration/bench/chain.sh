# The whole chain under load: sourced by bench.sh, whose functions and stacks it uses.

# --- 100 containers at once, while somebody lists those that there are
crowd() { # crowd CLIENT SOCKET: milliseconds for 100 × run -d, ten clients at a time; the lists' p99 goes to $work/p99
	local start=${EPOCHREALTIME/./} lister
	while :; do
		curl -s -o /dev/null -w '%{time_total}\n' --unix-socket "$2" 'http://x/v1.41/containers/json?all=1' || true
		sleep 0.01
	done >"$work/lists" &
	lister=$!
	seq 100 | xargs -P 10 -I{} $1 run -d --network none --name 'crowd-{}' bench:1 /bin/sleep 10000 >/dev/null
	awk -v us=$((${EPOCHREALTIME/./} - start)) 'BEGIN { printf "%.0f", us / 1000 }'
	kill "$lister"
	wait "$lister" 2>/dev/null || true
	sort -n "$work/lists" | awk '{ v[NR] = $1 } END { printf "%.1f", v[int(NR * 0.99 + 0.5)] * 1000 }' >"$work/p99"
	$1 rm -f $(seq -f 'crowd-%g' 100) >/dev/null
}
crowd_ours=$(crowd "$PWD/bin/engine -H $ours" "${ours#unix://}")
list_ours=$(<"$work/p99")
crowd_stock=$(crowd "docker -H $stock" "${stock#unix://}")
row '100 × run -d, ten at a time' "$crowd_ours" "$crowd_stock" ms
row 'list of containers meanwhile, p99' "$list_ours" "$(<"$work/p99")" ms

# --- pull and unpack: eight gzip layers of this machine's programs from a registry on loopback
mkdir -p "$work/registry" "$work/layers"
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:5000"}\n' "$work/registry" >"$work/registry.yml"
for ns in "$space" "$space-stock"; do # one store, a server in each netns
	in_ns "$ns" docker-registry serve "$work/registry.yml" >/dev/null 2>&1 &
	pids+=($!)
done
{
	echo 'FROM scratch'
	for n in 0 1 2 3 4 5 6 7; do
		mkdir "$work/layers/$n"
		find /usr/lib -xdev -type f -size -4M -printf '%s %p\n' | sort -k2 | awk -v n="$n" 'NR % 8 == n && (sum += $1) < 25e6 { print $2 }' |
			tar -cf - -T - 2>/dev/null | tar -xf - -C "$work/layers/$n"
		echo "COPY $n /$n"
	done
} >"$work/layers/Dockerfile"
DOCKER_BUILDKIT=0 docker -H "$stock" build -q -t 127.0.0.1:5000/pull:1 "$work/layers" >/dev/null
docker -H "$stock" push -q 127.0.0.1:5000/pull:1 >/dev/null
docker -H "$stock" rmi -f 127.0.0.1:5000/pull:1 >/dev/null
size=$(du -sm "$work/layers" | cut -f1)
pulled() { # pulled CLIENT: milliseconds
	local start=${EPOCHREALTIME/./}
	$1 pull -q 127.0.0.1:5000/pull:1 >/dev/null
	echo $(((${EPOCHREALTIME/./} - start) / 1000))
	$1 rmi -f 127.0.0.1:5000/pull:1 >/dev/null
}
: >"$work/a"; : >"$work/b"
for _ in 1 2 3; do
	pulled "$PWD/bin/engine -H $ours" >>"$work/a"
	pulled "docker -H $stock" >>"$work/b"
done
row "pull and unpack, 8 layers, $size MB" "$(sort -n "$work/a" | sed -n 2p)" "$(sort -n "$work/b" | sed -n 2p)" ms
rm -rf "$work/layers"
