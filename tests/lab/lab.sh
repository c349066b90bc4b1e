#!/bin/bash
# lab.sh: a front-end and two libvirt hosts on one machine, as OpenNebula installs them. README.md lists the commands.
# Promise: `start` leaves working machines or nothing; `stop`, run at any time and any number of times, leaves nothing
# but $LAB/cache; `leftovers` proves it. Nothing outside $LAB and the namespaces is ever changed.
set -euo pipefail
self=$(readlink -f "$0")
here=$(dirname "$self")
# shellcheck source=settings.sh
. "$here/settings.sh"

die() { echo "lab: $*" >&2; exit 1; }

place_pid() { # PLACE -> pid of its first process, if it runs
  local pid
  pid=$(cat "$LAB/$1/pid" 2>/dev/null) && grep -qs "lowerdir=/,upperdir=$LAB/$1/" "/proc/$pid/mountinfo" && echo "$pid"
}

# ---- going in -------------------------------------------------------------------------------------------------------

enter() { # PLACE CMD...: as root, by exec
  local place=$1 pid
  shift
  if [ "$place" = fab ]; then
    exec ip netns exec "$FABRIC" "$@"
  fi
  pid=$(place_pid "$place") || die "$place does not run in $LAB"
  # nsenter has to fork for the pid namespace: the command must not outlive it.
  exec nsenter -t "$pid" -m -u -i -n -p -- setpriv --pdeathsig KILL -- "$@"
}

enter_as_one() { # PLACE CMD...: as oneadmin, with the environment of its services and none of the caller's
  local place=$1
  shift
  enter "$place" setpriv --reuid "$ONE_ID" --regid "$ONE_ID" --init-groups --pdeathsig KILL \
    env -i -C "$ONE_HOME" HOME="$ONE_HOME" USER=oneadmin LOGNAME=oneadmin SHELL=/bin/bash LANG=C.UTF-8 \
    PATH=/usr/local/bin:/usr/bin:/bin SSH_AUTH_SOCK="$AGENT" "$@"
}

# ---- start ----------------------------------------------------------------------------------------------------------

make_keys() {
  local keys=$LAB/keys place
  mkdir -m 700 "$keys"
  ssh-keygen -q -t ed25519 -N '' -C "oneadmin@fe" -f "$keys/id_ed25519"
  # The agent that a session forwards, not a file on a host, is what lets one host reach the other.
  cp "$keys/id_ed25519.pub" "$keys/authorized_keys"
  for place in $(places); do
    ssh-keygen -q -t ed25519 -N '' -C "$place" -f "$keys/$place.ssh"
    echo "$place,$(underlay "$place") $(cut -d' ' -f1,2 "$keys/$place.ssh.pub")"
  done >"$keys/known_hosts"
  [ "$TLS" = 1 ] || return 0
  make_certificates "$keys"
}

make_certificates() { # RSA, because libvirt 9.0 wants keyEncipherment and so refuses ECDSA
  local keys=$1 place
  certtool --generate-privkey --key-type rsa --bits 2048 --outfile "$keys/ca.key" 2>/dev/null
  printf '%s\n' 'cn = "causeway lab"' ca cert_signing_key 'expiration_days = 30' >"$keys/ca.template"
  certtool --generate-self-signed --load-privkey "$keys/ca.key" --template "$keys/ca.template" \
    --outfile "$keys/ca.pem" 2>/dev/null
  for place in $(places); do
    [ "$place" != fe ] || continue
    certtool --generate-privkey --key-type rsa --bits 2048 --outfile "$keys/$place.key" 2>/dev/null
    printf '%s\n' "cn = \"$place\"" "dns_name = \"$place\"" 'dns_name = "localhost"' \
      "ip_address = \"$(underlay "$place")\"" \
      tls_www_server tls_www_client signing_key encryption_key 'expiration_days = 30' >"$keys/$place.template"
    certtool --generate-certificate --load-privkey "$keys/$place.key" --load-ca-certificate "$keys/ca.pem" \
      --load-ca-privkey "$keys/ca.key" --template "$keys/$place.template" --outfile "$keys/$place.pem" 2>/dev/null
  done
}

make_network() { # the "physical" switch in a namespace of its own, one cable to each machine
  local place
  ip netns add "$FABRIC"
  ip -n "$FABRIC" link set lo up
  # Snooping off: there is no IGMP querier here, and VXLAN's multicast must reach every port.
  ip -n "$FABRIC" link add "$FABRIC_BRIDGE" type bridge forward_delay 0 mcast_snooping 0
  ip -n "$FABRIC" link set "$FABRIC_BRIDGE" mtu "$UNDERLAY_MTU" up
  ip -n "$FABRIC" addr add "$FABRIC_ADDRESS/24" dev "$FABRIC_BRIDGE"
  for place in $(places); do
    ip netns add "$P$place"
    ip -n "$P$place" link set lo up
    ip -n "$FABRIC" link add "to-$place" mtu "$UNDERLAY_MTU" \
      type veth peer name eth0 mtu "$UNDERLAY_MTU" netns "$P$place"
    ip -n "$FABRIC" link set "to-$place" master "$FABRIC_BRIDGE" up
    ip -n "$P$place" addr add "$(underlay "$place")/24" dev eth0
    ip -n "$P$place" link set eth0 up
    [ "$OVS" = 1 ] || continue
    # A cable without an address, for a switch of the machine to lead out by: it carries tagged frames too.
    ip -n "$FABRIC" link add "trunk-$place" mtu "$UNDERLAY_MTU" \
      type veth peer name eth1 mtu "$UNDERLAY_MTU" netns "$P$place"
    ip -n "$FABRIC" link set "trunk-$place" master "$FABRIC_BRIDGE" up
    ip -n "$P$place" link set eth1 up
  done
}

declare -A LAUNCHER # of each machine: its pid

start_place() {
  local place=$1
  mkdir -p "$LAB/$place"
  setsid nsenter --net="/run/netns/$P$place" unshare -m -u -i -p -f --kill-child -- \
    "$here/host.sh" "$place" >"$LAB/$place/log" 2>&1 </dev/null 9>&- &
  LAUNCHER[$place]=$!
  disown
}

wait_for_place() {
  local place=$1 pid tries=0 up
  while [ $((tries += 1)) -le 300 ] && [ -d "/proc/${LAUNCHER[$place]}/fd/" ]; do
    if pid=$(place_pid "$place"); then
      up=/proc/$pid/root/run
      if [ -e "$up/lab-is-up" ] && { [ "$place" = fe ] || [ -S "$up/libvirt/libvirt-sock" ]; }; then return 0; fi
    fi
    sleep 0.1
  done
  echo "lab: $place did not start:" >&2
  tail -n 20 "$LAB/$place/log" >&2
  return 1
}

start() {
  local place
  for place in $(places); do
    ! place_pid "$place" >/dev/null || die "$LAB already runs: stop it first, or choose another LAB and P"
  done
  stop
  [ -z "$(lab_namespaces)" ] || die "another lab has P=$P: choose another P"
  trap 'stop' EXIT
  trap 'exit 130' INT TERM
  mkdir -p "$LAB/cache" "$LAB/datastores" "$LAB/libexec"
  chmod 755 "$LAB" "$LAB/cache"
  chown "$ONE_ID:$ONE_ID" "$LAB/datastores"
  mountpoint -q /run/netns && NETNS_MOUNT=theirs || NETNS_MOUNT=ours
  printf '%s=%q\n' P "$P" NHOSTS "$NHOSTS" CG "$CG" TLS "$TLS" OVS "$OVS" NETNS_MOUNT "$NETNS_MOUNT" >"$LAB/settings"
  "$here/get-qemu.sh" "$LAB/cache/qemu10"
  "$here/make-guest.sh" "$LAB/cache/guest"
  make_keys
  make_network
  export LAB NHOSTS CG TLS OVS P
  for place in $(places); do start_place "$place"; done
  for place in $(places); do wait_for_place "$place"; done
  trap - EXIT INT TERM
  status
}

status() {
  local place pid rc=0
  for place in $(places); do
    if ! pid=$(place_pid "$place"); then
      echo "$place: down"
      rc=1
    elif [ "$place" = fe ]; then
      echo "$place: up, pid $pid"
    else
      echo "$place: up, pid $pid, domains: $(timeout 10 virsh -q -c "$(uri "$place")" list --all --name 2>&1 | xargs)"
    fi
  done
  return $rc
}

uri() { # the host's libvirt for a program on the real machine, as root
  local pid
  pid=$(place_pid "$1") || die "$1 does not run in $LAB"
  echo "qemu+unix:///system?socket=/proc/$pid/root/run/libvirt/libvirt-sock"
}

# ---- observer -------------------------------------------------------------------------------------------------------

observer() { # VNI ADDR/PLEN [MTU]: joins a guest network from the fabric, outside both hosts
  local vni=${1:?VNI} address=${2:?ADDR/PLEN} mtu=${3:-1500} device=obs$1 group
  # The group OpenNebula's vxlan driver derives by default: 239.0.0.0 plus the network's number.
  group=$(((239 << 24) + vni))
  group=$((group >> 24)).$((group >> 16 & 255)).$((group >> 8 & 255)).$((group & 255))
  ip -n "$FABRIC" link add "$device" type vxlan id "$vni" group "$group" dev "$FABRIC_BRIDGE" \
    dstport "$VXLAN_PORT" local "$FABRIC_ADDRESS"
  ip -n "$FABRIC" link set "$device" mtu "$mtu" up
  ip -n "$FABRIC" addr add "$address" dev "$device"
  echo "$device"
}

observer_vlan() { # VID ADDR/PLEN [MTU]: joins a VLAN of the hosts' second cables, by the front-end's own switch
  local vid=${1:?VID} address=${2:?ADDR/PLEN} mtu=${3:-1500} device=vlan$1
  [ "$OVS" = 1 ] || die "the lab was started without OVS=1"
  # shellcheck disable=SC2016  # expanded by the shell in the machine
  enter fe sh -euc '
    ovs-vsctl --timeout=10 --may-exist add-br observers -- set bridge observers datapath_type=netdev \
      -- --may-exist add-port observers eth1 \
      -- add-port observers "$1" "tag=$2" -- set interface "$1" type=internal
    ip link set "$1" mtu "$3" up
    ip addr add "$4" dev "$1"
    echo "$1"' observer "$device" "$vid" "$mtu" "$address"
}

observer_off() {
  local device
  if [ "$OVS" = 1 ]; then (enter fe ovs-vsctl --timeout=10 --if-exists del-br observers); fi
  ip -n "$FABRIC" -br link show type vxlan | awk '{ sub("@.*", "", $1); print $1 }' | while read -r device; do
    ip -n "$FABRIC" link del "$device"
  done
}

ask() { # ADDRESS WORD...: one question to a guest's verifier (dirtier.c), from outside both hosts
  local address=$1
  shift
  # dd, because the shell's own read takes a byte at a time, and of a datagram the rest is lost.
  # shellcheck disable=SC2016  # expanded by the shell in the namespace
  ip netns exec "$FABRIC" bash -c '
    exec 3<>"/dev/udp/$1/7007"
    printf %s "$2" >&3
    timeout 10 dd bs=512 count=1 status=none <&3' ask "$address" "$*"
}

# ---- stop -----------------------------------------------------------------------------------------------------------

lab_pids() { # everything that lives in a machine of this lab, whoever started it: their root is an overlay below $LAB
  grep -ls -- ",upperdir=$LAB/" /proc/[0-9]*/mountinfo | cut -d/ -f3 || :
}

lab_namespaces() { ip netns list | awk '{ print $1 }' | grep -xE -- "$P(fab|fe|h[0-9]+)" || :; }

lab_cgroups() {
  find /sys/fs/cgroup -maxdepth 2 -type d 2>/dev/null | grep -E -- "/$P(fe|h[0-9]+)\$" || :
}

end_processes() { # PID...: killed, and waited for
  local pid tries=0
  [ $# -gt 0 ] || return 0
  kill -KILL "$@" 2>/dev/null || :
  for pid in "$@"; do
    # A zombie holds nothing any more; when the real machine's init reaps it is not ours to wait for.
    while grep -qs '^State:.[^ZX]' "/proc/$pid/status" && [ $((tries += 1)) -le 400 ]; do sleep 0.02; done
  done
}

keep_logs() { # LOGS=DIR: what the machines wrote, for whoever has to find out why a test failed
  local place pid
  [ -n "${LOGS:-}" ] || return 0
  for place in $(places); do
    mkdir -p "$LOGS/$place"
    cp "$LAB/$place/log" "$LOGS/$place/machine.log" 2>/dev/null || :
    pid=$(place_pid "$place") || continue
    cp -r "/proc/$pid/root/var/log/sshd.log" "/proc/$pid/root/var/log/libvirt" "$LOGS/$place/" 2>/dev/null || :
  done
}

abandoned() { # is there a lab without a directory? Then nobody but its own machines is in namespaces of its name
  local name theirs
  [ -n "$(lab_pids)$(lab_namespaces)" ] || return 1
  theirs=$(for name in $(lab_namespaces); do ip netns pids "$name"; done | grep -vxF -f <(lab_pids))
  [ -z "$theirs" ]
}

stop() {
  local name group pids tries
  [ -e "$LAB/settings" ] || abandoned || return 0
  keep_logs
  # A first process takes its pid namespace along, so the first round normally ends all; the second meets latecomers.
  for _ in 1 2; do
    mapfile -t pids < <(lab_pids)
    end_processes "${pids[@]}"
  done
  for name in $(lab_namespaces); do
    mapfile -t pids < <(ip netns pids "$name")
    end_processes "${pids[@]}"
    ip netns del "$name"
  done
  for group in $(lab_cgroups); do
    tries=0
    while [ -d "$group" ] && [ $((tries += 1)) -le 20 ]; do
      find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || sleep 0.1
    done
  done
  # What the first `ip netns add` of all mounts; the last one out takes it along.
  if [ "${NETNS_MOUNT:-}" = ours ] && [ -z "$(ip netns list)" ]; then
    if umount /run/netns 2>/dev/null; then rmdir /run/netns; fi
  fi
  [ -e "$LAB/settings" ] || return 0
  # By name, never by pattern over $LAB: whatever else lies there is not ours.
  rm -rf "$LAB/fe" "$LAB"/h[0-9] "$LAB"/h[0-9][0-9] "$LAB/keys" "$LAB/datastores" "$LAB/libexec" "$LAB/ceph"
  rm -f "$LAB/settings"
}

command_line() { { tr '\0' ' ' <"/proc/$1/cmdline" | cut -c1-160; } 2>/dev/null || :; }

leftovers() { # prints what is left of the lab; fails if anything is
  local found
  found=$(
    local pid name line named
    for pid in $(lab_pids); do echo "process $pid in a lab machine: $(command_line "$pid")"; done
    for name in $(lab_namespaces); do
      echo "network namespace $name"
      for pid in $(ip netns pids "$name"); do echo "process $pid in network namespace $name"; done
    done
    mapfile -t named < <(grep -lsF -- "$LAB/" /proc/[0-9]*/cmdline | cut -d/ -f3)
    for pid in "${named[@]}"; do
      # Asked again, because the search itself names the directory while it runs.
      line=$(command_line "$pid")
      [[ $line != *"$LAB/"* ]] || ours "$pid" || echo "process $pid names $LAB: $line"
    done
    awk -v lab="$LAB/" 'index($5, lab) == 1 { print "mount " $5 }' /proc/self/mountinfo
    for name in $(lab_cgroups); do echo "cgroup $name"; done
    find "$LAB" -mindepth 1 -maxdepth 1 ! -name cache -printf 'file %p\n' 2>/dev/null
    for name in $(places); do
      if [ "$name" = fe ] || ! place_pid "$name" >/dev/null; then continue; fi
      timeout 10 virsh -q -c "$(uri "$name")" list --all --name 2>/dev/null | sed '/^$/d;s/^/domain /'
    done
  )
  [ -n "$found" ] || return 0
  echo "$found"
  return 1
}

ours() { # PID: is it this command, or one that waits for it?
  local pid=$$
  while [ "${pid:-0}" -gt 1 ]; do
    [ "$pid" != "$1" ] || return 0
    pid=$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status" 2>/dev/null)
  done
  return 1
}

# ---- commands -------------------------------------------------------------------------------------------------------

alone() { # one start or stop at a time; the descriptor is closed in everything that stays
  [ "$(id -u)" = 0 ] || die "must be root: namespaces and mounts are made"
  mkdir -p "$LAB"
  exec 9<"$LAB"
  flock 9
}

command=${1:-}
shift || :
case $command in
start) alone; start ;;
stop) alone; stop; rmdir "$LAB" 2>/dev/null || : ;;
status) status ;;
exec) enter "$@" ;;
one) enter_as_one "$@" ;;
ssh) enter_as_one fe ssh "$@" ;;
uri) uri "${1:?uri HOST}" ;;
observer) observer "$@" ;;
observer-vlan) observer_vlan "$@" ;;
observer-off) observer_off ;;
ask) ask "$@" ;;
leftovers) leftovers ;;
*)
  echo "usage: lab.sh start | stop | status | leftovers | exec HOST CMD... | one HOST CMD... |
              ssh [OPTIONS] HOST CMD... | uri HOST | observer VNI ADDR/PLEN [MTU] |
              observer-vlan VID ADDR/PLEN [MTU] | observer-off |
              ask ADDR get|check|'set MIB PPS'" >&2
  exit 2
  ;;
esac
