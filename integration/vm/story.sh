#!/bin/bash
# Runs inside the VM: the units as an operator installs them, limits in the v2 files, and
# containers that outlive restarts and kills of both daemons.
set -euo pipefail
step() { printf '\n== %s\n' "$*"; }
fail() { echo "FAILED: $*"; journalctl -u engined -u supervisord --no-pager -n 60; exit 1; }
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
unset DOCKER_HOST

step "install and start the units"
(cd strata && packaging/install.sh /usr/local)
systemctl start supervisord.service engined.socket engined.service
systemctl is-active supervisord.service engined.socket engined.service
ls -l /run/strata/engine.sock
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]
engine info --format '{{.CgroupVersion}} {{.CgroupDriver}}'

step "limits are visible in the v2 files"
engine load -i nginx.tar
engine run -d --name web -p 8080:80 -m 64m --memory-swap 64m --cpus 0.5 --pids-limit 100 -v data:/usr/share/nginx/html nginx:test
pid=$(engine inspect --format '{{.State.Pid}}' web)
group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
echo "$group"
[ "$(cat "$group/memory.max")" = 67108864 ]
[ "$(cat "$group/memory.swap.max")" = 0 ]
[ "$(cat "$group/cpu.max")" = '50000 100000' ]
[ "$(cat "$group/pids.max")" = 100 ]

answers() { for _ in $(seq 100); do curl -sf --max-time 5 http://127.0.0.1:8080/ | grep -q Welcome && return 0; sleep 0.1; done; return 1; }
same() { [ "$(engine inspect --format '{{.State.Pid}} {{.State.Status}}' web)" = "$pid running" ]; }
step "it answers"
answers

step "systemctl restart of both daemons"
systemctl restart supervisord.service
systemctl restart engined.service
answers
same
engine exec web echo 'exec works'

step "kill -9 of both daemons; systemd starts them again"
kill -9 "$(systemctl show -p MainPID --value supervisord.service)" "$(systemctl show -p MainPID --value engined.service)"
answers
for _ in $(seq 200); do same 2>/dev/null && break; sleep 0.1; done
same
engine exec web echo 'exec works'

step "stop of both daemons"
systemctl stop engined.service supervisord.service
answers
[ -d "/proc/$pid" ]

step "socket activation: the first command starts the engine"
systemctl start supervisord.service
engine ps
same

step "logs, stop, remove"
engine logs web | grep -c 'GET / ' >/dev/null
engine stop web
engine rm web
engine volume rm data
[ ! -d "$group" ]
engine doctor
step "AppArmor: the engine loads docker-default, and again when somebody has unloaded it"
loaded() { grep -q '^docker-default (enforce)' /sys/kernel/security/apparmor/profiles; }
loaded
[ "$(engine run --rm --network none nginx:test cat /proc/self/attr/current)" = 'docker-default (enforce)' ]
[ "$(engine run --rm --network none --privileged nginx:test cat /proc/self/attr/current)" = unconfined ]
[ "$(engine run --rm --network none --security-opt apparmor=unconfined nginx:test cat /proc/self/attr/current)" = unconfined ]
! engine run --rm --network none nginx:test sh -c 'echo 0 >/proc/sys/kernel/panic' 2>/dev/null
! engine run --rm --network none --security-opt apparmor=nobody-loaded-it nginx:test true 2>message || false
grep -i apparmor message
engine run -d --name confined --network none nginx:test sleep 1000
[ "$(engine exec confined cat /proc/self/attr/current)" = 'docker-default (enforce)' ]
[ "$(engine inspect -f '{{.AppArmorProfile}}' confined)" = docker-default ]
engine stop -t 5 confined
engine rm confined
printf 'profile docker-default { }\n' | apparmor_parser -R
! loaded
[ "$(engine run --rm --network none nginx:test cat /proc/self/attr/current)" = 'docker-default (enforce)' ]

step "AppArmor without its parser: said, and containers run"
printf 'profile docker-default { }\n' | apparmor_parser -R
parser=$(command -v apparmor_parser)
mv "$parser" "$parser.away"
systemctl restart engined.service
journalctl -u engined --no-pager | grep 'containers are not confined by AppArmor'
engine info 2>&1 | grep 'profile docker-default is not loaded'
[ "$(engine run --rm --network none nginx:test cat /proc/self/attr/current)" = unconfined ]
mv "$parser.away" "$parser"

step "ocirun as a user, with a delegated cgroup and without"
cp rootless.sh /home/user/ && chown user: /home/user/rootless.sh
mkdir -p /run/user/1000 && chown user: /run/user/1000
as_user() { systemd-run --quiet --wait --pipe --uid=user --gid=user -E XDG_RUNTIME_DIR=/run/user/1000 -E PATH="$PATH" --working-directory=/home/user "$@"; }
as_user bash rootless.sh without
as_user -p Delegate=yes bash rootless.sh delegated
step "the story is told"
