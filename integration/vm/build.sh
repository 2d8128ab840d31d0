#!/bin/bash
# build.sh CACHE: makes a bootable Debian (systemd, cgroup v2, AppArmor, the cloud kernel) in
# CACHE: root.ext4, vmlinuz and initrd. Returns at once if it is there already. Installs
# mmdebstrap and qemu on the host.
set -euo pipefail
cache=$(realpath -m "${1:?usage: build.sh CACHE}")
suite=bookworm
here=$(cd "$(dirname "$0")" && pwd)
stamp=$(cat "$here/build.sh" | sha256sum | cut -c1-16)
[ "$(cat "$cache/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

packages=()
for pair in mmdebstrap:mmdebstrap qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio depmod:kmod mke2fs:e2fsprogs xz:xz-utils; do
	command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
done
if [ ${#packages[@]} -gt 0 ]; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
mkdir -p "$cache"
work=$(mktemp -d "$cache/build.XXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

# The mirror is the one that the host's apt is configured with.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -1)
mmdebstrap --quiet --mode=root --variant=minbase --skip=cleanup/apt/lists \
	--include=systemd,systemd-sysv,dbus,udev,kmod,iproute2,nftables,apparmor,busybox-static,curl,procps,ca-certificates,uidmap,util-linux \
	--aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	"$suite" "$root" "deb $mirror $suite main"

# The kernel without its maintainer scripts: they would build an initrd of 30 MB.
package=$(chroot "$root" apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
(cd "$root/tmp" && chroot "$root" sh -c "cd /tmp && apt-get download -qq -o APT::Sandbox::User=root $package")
dpkg-deb -x "$root"/tmp/linux-image-*.deb "$work/kernel"
rm -rf "$root"/tmp/*.deb "$root"/var/lib/apt/lists/*
version=$(ls "$work/kernel/lib/modules")
cp -a "$work/kernel/lib/modules" "$root/usr/lib/"
depmod -b "$root" "$version"
cp "$work/kernel/boot/vmlinuz-$version" "$cache/vmlinuz"

# An initrd of two megabytes: busybox and the way to the disk.
initrd=$work/initrd
mkdir -p "$initrd"/{bin,dev,proc,new,modules}
cp "$(command -v busybox)" "$initrd/bin/"
: >"$initrd/modules/order"
for module in virtio_pci virtio_blk ext4 crc32c_generic; do
	modprobe -d "$root" -S "$version" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" { print $2 }' | while read -r file; do
		name=$(basename "$file" .xz)
		[ -e "$initrd/modules/$name" ] && continue
		case $file in *.xz) xz -dc "$file" >"$initrd/modules/$name" ;; *) cp "$file" "$initrd/modules/$name" ;; esac
		echo "$name" >>"$initrd/modules/order"
	done
done
cat >"$initrd/init" <<'EOF'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done </modules/order
until [ -b /dev/vda ]; do /bin/busybox usleep 20000; done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox mount -o move /dev /new/dev
exec /bin/busybox switch_root /new /sbin/init
EOF
chmod +x "$initrd/init"
(cd "$initrd" && find . | cpio -o -H newc --quiet) >"$cache/initrd"

# The job: a tar on the second disk, unpacked and run when the system is up. Its output and
# exit status go to the second serial port.
cat >"$root/usr/local/sbin/job" <<'EOF'
#!/bin/bash
exec >/dev/ttyS1 2>&1
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /job && tar -xf /dev/vdb -C /job && cd /job && bash ./run.sh
echo "exit status $?"
sync
systemctl poweroff --force --force
EOF
chmod +x "$root/usr/local/sbin/job"
cat >"$root/etc/systemd/system/job.service" <<'EOF'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/job
TimeoutStartSec=infinity
StandardOutput=null
EOF
cat >"$root/etc/systemd/system/job.target" <<'EOF'
[Unit]
Requires=multi-user.target
Wants=job.service
AllowIsolate=yes
EOF
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer getty@tty1.service \
	serial-getty@ttyS0.service serial-getty@ttyS1.service systemd-timesyncd.service; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
rm -rf "$root"/etc/apparmor.d/{usr,lsb,nvidia,sbin}* # nothing here uses them and each boot would compile them
chroot "$root" useradd --create-home --uid 1000 user # with subordinate ids, for containers without root
echo vm >"$root/etc/hostname"
printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$root/etc/hosts"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
rm -f "$cache/root.ext4"
mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -m 0 -d "$root" "$cache/root.ext4" 2G
echo "$stamp" >"$cache/stamp"
