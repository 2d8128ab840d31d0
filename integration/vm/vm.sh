#!/bin/bash
# What `make vm` does: installs the stack in a Debian VM with systemd and cgroup v2 and tells
# the short story there. The machine is kept in $STRATA_VM_CACHE.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${STRATA_VM_CACHE:-$HOME/.cache/strata-vm}
integration/vm/build.sh "$cache"
job=$(mktemp -d)
trap 'rm -rf "$job"' EXIT
mkdir "$job/strata"
cp -a bin packaging README.md ARCHITECTURE.md "$job/strata/"
integration/testdata/nginx-image.sh "$job/nginx.tar"
cp integration/vm/story.sh "$job/run.sh"
cp integration/vm/rootless.sh "$job/"
integration/vm/boot.sh "$cache" "$job" 900
