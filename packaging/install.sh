#!/bin/bash
# install.sh PREFIX: installs the binaries of ./bin, the systemd units and, where there are
# none yet, the example configuration. DESTDIR is honoured.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${1:?usage: install.sh PREFIX}
dest=${DESTDIR:-}

install -d "$dest$prefix/bin" "$dest/etc/strata/certs.d" "$dest/etc/systemd/system" "$dest$prefix/share/doc/strata"
install -m 0755 bin/engine bin/engined bin/supervisord bin/containerd-shim-strata-v2 bin/ocirun bin/strata-init "$dest$prefix/bin/"
install -m 0644 README.md ARCHITECTURE.md "$dest$prefix/share/doc/strata/"
for unit in packaging/systemd/*; do
	sed "s#/usr/local/#$prefix/#g" "$unit" >"$dest/etc/systemd/system/$(basename "$unit")"
done
for conf in packaging/etc/*; do
	[ -e "$dest/etc/strata/$(basename "$conf")" ] || install -m 0644 "$conf" "$dest/etc/strata/"
done
if [ -z "$dest" ]; then
	getent group strata >/dev/null || groupadd --system strata
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		echo "installed; start with: systemctl enable --now supervisord.service engined.socket engined.service"
	fi
fi
