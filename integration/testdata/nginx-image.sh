#!/bin/bash
# nginx-image.sh OUT.tar: a docker archive of image nginx:test, made of Debian's packages and
# a static busybox for its shell.
set -euo pipefail
out=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"
cd "$work"
mkdir debs root
if ! (cd debs && apt-get download -qq nginx nginx-common libc6 libgcc-s1 libcrypt1 libpcre2-8-0 libssl3 zlib1g 2>/dev/null); then
	apt-get update -qq
	(cd debs && apt-get download -qq nginx nginx-common libc6 libgcc-s1 libcrypt1 libpcre2-8-0 libssl3 zlib1g)
fi
for deb in debs/*.deb; do dpkg -x "$deb" root; done
rm -rf root/usr/share/{doc,man,locale,lintian} root/lib/systemd
mkdir -p root/{bin,tmp,proc,sys,dev,run,var/lib/nginx,var/log/nginx,usr/share/nginx/html}
cp "$(command -v busybox)" root/bin/busybox
for applet in sh cat ls echo ps sleep true false env id hostname stty wget grep head touch rm mkdir mount df nslookup; do
	[ -e root/bin/$applet ] || ln -s busybox root/bin/$applet
done
printf 'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n' >root/etc/passwd
printf 'root:x:0:\nwww-data:x:33:\n' >root/etc/group
rm -f root/etc/nginx/modules-enabled/*
cat >root/etc/nginx/nginx.conf <<'EOF'
daemon off;
user www-data;
worker_processes 1;
error_log /dev/stderr;
events {}
http {
	access_log /dev/stdout;
	include mime.types;
	server { listen 80; listen [::]:80; root /usr/share/nginx/html; }
}
EOF
echo 'Welcome to nginx from Debian packages' >root/usr/share/nginx/html/index.html
tar --numeric-owner --owner=0 --group=0 --mtime=@0 --sort=name -C root -cf layer.tar .
diff=$(sha256sum layer.tar | cut -d' ' -f1)
cat >config.json <<EOF
{"architecture":"$(dpkg --print-architecture)","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Cmd":["/usr/sbin/nginx"],"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"},"rootfs":{"type":"layers","diff_ids":["sha256:$diff"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"nginx-image.sh"}]}
EOF
id=$(sha256sum config.json | cut -d' ' -f1)
mv config.json "$id.json"
printf '[{"Config":"%s.json","RepoTags":["nginx:test"],"Layers":["layer.tar"]}]' "$id" >manifest.json
tar -cf "$out" "$id.json" manifest.json layer.tar
