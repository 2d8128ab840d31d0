#!/bin/bash
# boot.sh CACHE JOBDIR [SECONDS]: boots the image of build.sh, runs JOBDIR/run.sh in it as
# root and ends with its exit status. The image is not changed. 124: the time was up; 125:
# the machine died.
set -euo pipefail
cache=$(realpath "$1") job=$(realpath "$2") seconds=${3:-600}
work=$(mktemp -d)
machine=
trap '[ -z "$machine" ] || kill -9 "$machine" 2>/dev/null || true; rm -rf "$work"' EXIT
tar -cf "$work/job.tar" -C "$job" .
truncate -s %1M "$work/job.tar"
: >"$work/out"
acceleration=tcg,thread=multi
cpu=max
if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then acceleration=kvm cpu=host; fi
# Under emulation on a busy host the TSC is mis-calibrated; hpet is right.
qemu-system-x86_64 -M q35 -accel "$acceleration" -cpu "$cpu" -smp 2 -m 2048 -nodefaults -no-user-config -display none -no-reboot \
	-kernel "$cache/vmlinuz" -initrd "$cache/initrd" \
	-append "root=/dev/vda console=ttyS0 panic=-1 quiet tsc=unstable clocksource=hpet mitigations=off systemd.unit=job.target systemd.show_status=0" \
	-drive "file=$cache/root.ext4,format=raw,if=virtio,snapshot=on,cache=unsafe" \
	-drive "file=$work/job.tar,format=raw,if=virtio,readonly=on" \
	-serial "file:$work/console" -serial "file:$work/out" -device virtio-rng-pci </dev/null &
machine=$!
tail -c +1 -f --pid=$machine "$work/out" &
for ((i = 0; i < seconds; i++)); do
	kill -0 $machine 2>/dev/null || break
	sleep 1
done
if kill -0 $machine 2>/dev/null; then
	echo "the virtual machine took longer than $seconds s; its console:" >&2
	tail -20 "$work/console" >&2
	exit 124
fi
wait $machine || true
machine=
status=$(tr -d '\r' <"$work/out" | sed -n 's/^exit status //p' | tail -1)
if [ -z "$status" ]; then
	echo 'the virtual machine died; its console:' >&2
	tail -20 "$work/console" >&2
	exit 125
fi
exit "$status"
