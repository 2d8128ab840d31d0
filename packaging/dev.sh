#!/bin/bash
# What `make dev` does: both daemons in the foreground under ./.dev. Run it again after a
# change: containers of the earlier run are found again.
set -euo pipefail
cd "$(dirname "$0")/.."
export STRATA_ROOT=$PWD/.dev
. packaging/daemons.sh
mkdir -p "$STRATA_ROOT"
start_daemons "$@"
trap 'kill $ENGINE_PID $SUPERVISOR_PID 2>/dev/null || true' EXIT
echo "export STRATA_HOST=$STRATA_HOST PATH=$STRATA_BIN:\$PATH      # ^C ends the daemons, not the containers"
tail -n +1 -F "$STRATA_ROOT/supervisord.log" "$STRATA_ROOT/engined.log"
