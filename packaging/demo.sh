#!/bin/bash
# What `make run` does: both daemons under a private root, one container from the image that
# the engine carries with it, and what that container consisted of.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
	echo 'make run needs root (namespaces, mounts, cgroups): sudo make run' >&2
	exit 1
fi
. packaging/daemons.sh
trap stop_daemons EXIT
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

say "supervisord … & engined … &        # under $STRATA_ROOT"
start_daemons --bridge none --iptables=false
say engine run --rm --network none strata/hello
bin/engine run --rm --network none strata/hello
say engine run -d --name demo --network none strata/hello serve
bin/engine run -d --name demo --network none strata/hello serve
say engine ps
bin/engine ps
say engine explain demo
bin/engine explain demo
say engine rm -f demo
bin/engine rm -f demo
