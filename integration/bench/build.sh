# Builds: sourced by bench.sh, whose functions and stacks it uses. Each row has our builder
# on the left, and on the right the stock dockerd's classic builder or its BuildKit. Left of
# the classic builder, the same stock client speaks to both.
build_runs=${BENCH_BUILD_RUNS:-5}
b=$work/build
mkdir -p "$b/rootfs/bin"
cp "$work/rootfs/bin/busybox" "$b/rootfs/bin/"
for applet in sh cat cp dd echo md5sum mkdir sleep true; do ln -s busybox "$b/rootfs/bin/$applet"; done
tar -C "$b/rootfs" -c . | docker -H "$stock" import - bench-build:1 >/dev/null
docker -H "$stock" save bench-build:1 | engine load -q >/dev/null

our_engine() { "$PWD/bin/engine" -H "$ours" build -q "$@"; }
our_stock_client() { DOCKER_BUILDKIT=0 docker -H "$ours" build -q "$@"; }
stock_classic() { DOCKER_BUILDKIT=0 docker -H "$stock" build -q "$@"; }
stock_buildkit() { DOCKER_BUILDKIT=1 /usr/bin/docker -H "$stock" build -q "$@"; } # Debian's client needs no plugin
builders=(our_engine our_stock_client stock_classic stock_buildkit)

nothing() { :; }
# builds NAME RUNS PREPARE COMMAND...: medians for each builder, whose name is put before the
# command's arguments; PREPARE runs before each, untimed. One run alone has none before it
# that warms up: what takes a stock builder a minute is not done twice.
builds() {
	local name=$1 n=$2 prepare=$3 how i start
	shift 3
	for how in "${builders[@]}"; do
		: >"$b/$how"
		[ "$n" = 1 ] || "$1" "$how" "${@:2}" >"$b/log" 2>&1 || { cat "$b/log"; return 1; }
	done
	for ((i = 0; i < n; i++)); do
		for how in "${builders[@]}"; do
			$prepare
			start=${EPOCHREALTIME/./}; "$1" "$how" "${@:2}" >"$b/log" 2>&1 || { cat "$b/log"; return 1; }; echo $((${EPOCHREALTIME/./} - start)) >>"$b/$how"
		done
	done
	middle() { sort -n "$b/$1" | awk '{ v[NR] = $1 } END { printf "%.1f", v[int((NR + 1) / 2)] / 1000 }'; }
	row "$name (engine; classic)" "$(middle our_engine)" "$(middle stock_classic)" ms
	row "$name (stock CLI; classic)" "$(middle our_stock_client)" "$(middle stock_classic)" ms
	row "$name (engine; BuildKit)" "$(middle our_engine)" "$(middle stock_buildkit)" ms
}
one() { "$@"; }

# --- an application: a stage that makes something, and files
mkdir -p "$b/app/src"
for i in $(seq 100); do echo "file $i" >"$b/app/src/$i"; done
cat >"$b/app/Dockerfile" <<'END'
FROM bench-build:1 AS make
WORKDIR /src
COPY src .
RUN cat * >/all
FROM bench-build:1
ENV A=b
COPY --from=make /all /all
RUN md5sum /all >/sum
CMD ["cat", "/sum"]
END
builds 'build: nothing changed' "$build_runs" nothing one -t bench-app "$b/app"
change() { echo "$EPOCHREALTIME" >"$b/app/src/50"; }
builds 'build: one file changed' "$build_runs" change one -t bench-app "$b/app"

# --- four stages that do not need each other
mkdir "$b/stages"
{
	for i in 1 2 3 4; do
		printf 'FROM bench-build:1 AS s%s\nRUN dd if=/dev/zero of=/out%s bs=1M count=16 2>/dev/null && sleep 0.3 && md5sum /out%s >/sum%s\n' $i $i $i $i
	done
	echo 'FROM bench-build:1'
	for i in 1 2 3 4; do echo "COPY --from=s$i /sum$i /"; done
} >"$b/stages/Dockerfile"
builds 'build: cold, 4 parallel stages' "$build_runs" nothing one --no-cache "$b/stages"

# --- the same with steps that are over at once: what is left is the builders' own time
{
	for i in 1 2 3 4; do
		printf 'FROM bench-build:1 AS s%s\n' $i
		for j in 1 2 3; do printf 'RUN echo %s >/f%s\n' $i $j; done
	done
	echo 'FROM bench-build:1'
	for i in 1 2 3 4; do echo "COPY --from=s$i /f3 /f$i"; done
} >"$b/stages/Dockerfile"
builds 'build: cold, 4 stages of 3 short steps' "$build_runs" nothing one --no-cache "$b/stages"

# --- 50,000 files
mkdir "$b/many"
for d in $(seq 100); do
	mkdir "$b/many/$d"
	(cd "$b/many/$d" && seq 500 | xargs -n 500 sh -c 'for f; do echo "$f in '"$d"'" >"$f"; done' sh)
done
printf 'FROM bench-build:1\nCOPY . /many/\n' >"$b/many/Dockerfile"
builds 'build: cold, context of 50,000 files' 1 nothing one --no-cache "$b/many"
change_many() { echo "$EPOCHREALTIME" >"$b/many/50/250"; }
builds 'build: one of 50,000 files changed' 1 change_many one "$b/many"

# --- much in few layers: the sources of Go, copied and copied again
mkdir "$b/much"
cp -rL "$(go env GOROOT)/src" "$b/much/src"
printf 'FROM bench-build:1\nCOPY src /src\nRUN cp -r /src /again && cp -r /src /more\n' >"$b/much/Dockerfile"
builds "build: cold, layers of $(du -sm "$b/much" | awk '{ print $1 * 3 }') MB" 1 nothing one --no-cache "$b/much"

# --- ten at once
mkdir "$b/ten"
printf 'FROM bench-build:1\nARG N\nRUN echo $N >/n\nRUN md5sum /n >/sum\n' >"$b/ten/Dockerfile"
ten() {
	local how=$1 i ten=()
	for i in $(seq 10); do "$how" --no-cache --build-arg "N=$i" "$b/ten" & ten+=($!); done
	for i in "${ten[@]}"; do wait "$i" || return 1; done
}
builds 'build: ten images at once' "$build_runs" nothing ten
for how in "$PWD/bin/engine -H $ours" "docker -H $stock"; do $how image prune -f >/dev/null; $how builder prune -af >/dev/null; done
