# Sourced by demo.sh, dev.sh and the benchmarks: starts a private Strata under $STRATA_ROOT
# (default: a temporary directory), so that nothing of the host's own is touched.
#
#   start_daemons; …; stop_daemons

STRATA_BIN=${STRATA_BIN:-$PWD/bin}
STRATA_ROOT=${STRATA_ROOT:-$(mktemp -d -t strata.XXXXXX)}
export STRATA_HOST=unix://$STRATA_ROOT/run/engine.sock
SUPERVISOR_PID= ENGINE_PID=

start_supervisor() {
	"$STRATA_BIN/supervisord" --address "$STRATA_ROOT/run/supervisor.sock" --root "$STRATA_ROOT/lib/supervisor" \
		--state "$STRATA_ROOT/run/supervisor" >>"$STRATA_ROOT/supervisord.log" 2>&1 &
	SUPERVISOR_PID=$!
}

# start_engine [FLAG…]: extra flags go to engined.
start_engine() {
	"$STRATA_BIN/engined" --host "$STRATA_HOST" --containerd "$STRATA_ROOT/run/supervisor.sock" \
		--data-root "$STRATA_ROOT/lib/engine" --exec-root "$STRATA_ROOT/run/engine" --pidfile "$STRATA_ROOT/run/engined.pid" \
		"$@" >>"$STRATA_ROOT/engined.log" 2>&1 &
	ENGINE_PID=$!
}

# wait_engine: until the engine answers, at most 20 s.
wait_engine() {
	local i
	for ((i = 0; i < 400; i++)); do
		"$STRATA_BIN/engine" info >/dev/null 2>&1 && return 0
		kill -0 "$ENGINE_PID" 2>/dev/null || break
		sleep 0.05
	done
	echo "engined did not come up; its log says:" >&2
	tail -20 "$STRATA_ROOT/engined.log" >&2
	return 1
}

start_daemons() {
	mkdir -p "$STRATA_ROOT/run" "$STRATA_ROOT/lib"
	start_supervisor
	start_engine "$@"
	wait_engine
}

# stop_daemons: removes the containers first, then ends both daemons and the root.
stop_daemons() {
	local ids pid
	if ids=$("$STRATA_BIN/engine" ps -aq 2>/dev/null) && [ -n "$ids" ]; then
		# shellcheck disable=SC2086
		"$STRATA_BIN/engine" rm -fv $ids >/dev/null 2>&1 || true
	fi
	for pid in $ENGINE_PID $SUPERVISOR_PID; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	ENGINE_PID= SUPERVISOR_PID=
	awk -v root="$STRATA_ROOT/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | tac | while read -r m; do
		umount -l "$m" 2>/dev/null || true
	done
	rm -rf --one-file-system "$STRATA_ROOT"
}
