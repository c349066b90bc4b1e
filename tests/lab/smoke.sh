#!/bin/bash
# smoke.sh: the whole lab once: start, a guest network by hand, a guest booted and moved there and back, stop.
# Promise: ends with SMOKE-OK and exit 0 only if both ways of driving a migration worked, the guest's memory was right
# afterwards, QEMU ran as oneadmin, and nothing is left; whatever happens, it stops the lab it started.
# TLS=0 moves both ways over ssh, as on hosts without certificates.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
export LAB=${LAB:-/var/tmp/causeway-lab} P=${P:-cw} TLS=${TLS:-1}
lab=$here/lab.sh
guest=10.9.0.50 vni=100 group=239.0.0.100

began=$EPOCHREALTIME
say() { printf '%6.1f s  %s\n' "$(bc <<<"$EPOCHREALTIME - $began")" "$*"; }
die() { say "FAILED: $*"; exit 1; }
trap '"$lab" stop' EXIT
trap 'exit 130' INT TERM

guest_network() { # what the vxlan driver would make, by hand
  local host
  for host in h1 h2; do
    "$lab" exec "$host" sh -ec "
      ip link add br0 type bridge forward_delay 0
      ip link add vx$vni type vxlan id $vni group $group dev eth0 dstport 8472
      ip link set vx$vni mtu 1500 master br0 up
      ip link set br0 mtu 1500 up"
  done
}

guest_answers() {
  "$lab" exec fab timeout 60 sh -c "until ping -q -c 1 -W 1 $guest >/dev/null 2>&1; do sleep 0.1; done" ||
    die "the guest does not answer"
}

check_memory() {
  local answer
  answer=$("$lab" ask "$guest" check) || :
  case $answer in
  'check bad=0 of=8192') ;;
  *) die "the guest's memory: '${answer:-no answer}'" ;;
  esac
}

move() { # HOW FROM TO SSH-ARGUMENT...: from FROM to TO by what ssh is to run
  local how=$1 from=$2 to=$3 start=$EPOCHREALTIME took downtime
  shift 3
  timeout 60 "$lab" ssh "$@" || die "$how, $from to $to"
  took=$(bc <<<"$EPOCHREALTIME - $start")
  downtime=$("$lab" exec "$to" virsh domjobinfo --completed smoke | awk '/^Total downtime/ { print $3 }')
  say "$how, $from to $to: $(printf %.1f "$took") s, QEMU's own downtime $downtime ms"
  [ "$("$lab" ssh "$to" virsh -q -c qemu:///system list --name | xargs)" = smoke ] || die "the guest is not on $to"
  guest_answers
  check_memory
}

"$lab" start
say "the lab is up"
guest_network
"$lab" observer "$vni" 10.9.0.254/24 >/dev/null
DIRTY=32,2000 "$here/guest-xml.sh" smoke 50 | "$lab" ssh h1 virsh -q -c qemu:///system create /dev/stdin
guest_answers
say "the guest answers"
[ "$("$lab" exec h1 ps -C qemu-system-x86_64 -o user= | sort -u)" = oneadmin ] || die "QEMU does not run as oneadmin"

! "$lab" ssh h1 ssh -o BatchMode=yes h2 true 2>/dev/null || die "h1 reaches h2 without an agent"
if [ "$TLS" = 1 ]; then
  move 'peer to peer over TLS' h1 h2 h1 virsh -q -c qemu:///system migrate --live --p2p --tls smoke qemu+tls://h2/system
else
  move 'client-driven over ssh' h1 h2 -A h1 virsh -q -c qemu:///system migrate --live smoke qemu+ssh://h2/system
fi
move 'client-driven over ssh' h2 h1 -A h2 virsh -q -c qemu:///system migrate --live smoke qemu+ssh://h1/system

"$lab" ssh h1 virsh -q -c qemu:///system shutdown smoke
for _ in {1..100}; do
  running=$("$lab" ssh h1 virsh -q -c qemu:///system list --name | xargs)
  [ -n "$running" ] || break
  sleep 0.1
done
[ -z "$running" ] || die "the guest does not switch itself off"
say "the guest has switched itself off"
"$lab" observer-off
"$lab" stop
"$lab" leftovers || die "something is left"
say "stopped, nothing left"
echo SMOKE-OK
