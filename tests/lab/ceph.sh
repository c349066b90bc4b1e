#!/usr/bin/env bash
# ceph.sh start|stop|status|leftovers: a Ceph cluster of one monitor, one manager and one OSD, for tests.
# Promise: everything it makes lies in $CEPH_LAB; it needs no systemd, no disk of its own and no other lab; `start` ends
# with a cluster that serves or leaves nothing; `stop` may be run at any time, any number of times.
# `start` prints the path of the cluster's configuration. User `one` may use its pools `one`, `more` and `data`; the key is
# in one.key beside the configuration.
set -euo pipefail

# Settings: the directory; the address it listens at; the network namespace it runs in; the first of its two ports; how
# long a change of its maps waits for others, in seconds: 1 where nobody says otherwise, for each snapshot of a volume.
CEPH_LAB=${CEPH_LAB:-/var/tmp/causeway-ceph} ADDRESS=${ADDRESS:-127.0.0.1} NETNS=${NETNS:-} PORT=${PORT:-3300}
MAPS_WAIT=${MAPS_WAIT:-0.05}
case $CEPH_LAB in /*) ;; *) echo "ceph: CEPH_LAB must be an absolute path, not '$CEPH_LAB'" >&2 && exit 2 ;; esac
CEPH_LAB=${CEPH_LAB%/} conf=${CEPH_LAB%/}/ceph.conf
daemons=(osd mgr mon)

inside() { # CMD... in the network namespace, if one is set
  if [ -n "$NETNS" ]; then ip netns exec "$NETNS" "$@"; else "$@"; fi
}

ceph_() { inside timeout 60 ceph --conf "$conf" --connect-timeout 20 "$@"; }

process() { # DAEMON -> its process id, if that very daemon runs: a stale file may name anybody
  local id
  id=$(cat "$CEPH_LAB/$1.pid" 2>/dev/null) || return 1
  [ -n "$id" ] && tr '\0' ' ' 2>/dev/null <"/proc/$id/cmdline" | grep -qF -- "--conf $conf" && echo "$id"
}

stop() {
  local daemon id
  for daemon in "${daemons[@]}"; do
    id=$(process "$daemon") || continue
    # There is nothing to keep: no daemon is waited for as it writes out what is removed next.
    kill -KILL "$id" 2>/dev/null || :
    while kill -0 "$id" 2>/dev/null; do sleep 0.05; done
  done
  rm -rf -- "$CEPH_LAB"
}

configuration() { # FSID
  cat <<TEXT
[global]
fsid = $1
mon_host = [v2:$ADDRESS:$PORT,v1:$ADDRESS:$((PORT + 1))]
public_addr = $ADDRESS
keyring = $CEPH_LAB/\$type.\$id.keyring
run_dir = $CEPH_LAB
log_file = $CEPH_LAB/\$type.log
admin_socket = $CEPH_LAB/\$type.asok
# one OSD
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_max_pg_per_osd = 500
# a test machine's disk may be nearly full, and is not what is tested
mon_data_avail_warn = 2
mon_data_avail_crit = 1
# how long a client that died is believed to live
osd_default_notify_timeout = 5
osd_client_watch_timeout = 10
[client]
admin_socket =
log_file =
[client.admin]
keyring = $CEPH_LAB/admin.keyring
[client.one]
# Only the key file that a test names leads in.
keyring = /dev/null
[mon]
mon_data = $CEPH_LAB/mon
pid_file = $CEPH_LAB/mon.pid
auth_allow_insecure_global_id_reclaim = false
paxos_propose_interval = $MAPS_WAIT
[mgr]
mgr_data = $CEPH_LAB/mgr
mgr_initial_modules =
pid_file = $CEPH_LAB/mgr.pid
[osd]
osd_data = $CEPH_LAB/osd
pid_file = $CEPH_LAB/osd.pid
osd_objectstore = memstore
# memory is taken as it is written; what all kill points of a long run leave is more than half of it
memstore_device_bytes = 8589934592
TEXT
}

give_up() {
  tail -n 5 "$CEPH_LAB"/*.log >&2 || :
  stop
}

start() {
  if process mon >/dev/null; then echo "ceph: a cluster runs in $CEPH_LAB already" >&2 && return 1; fi
  # A directory of somebody else's is not ours to empty.
  if [ -e "$CEPH_LAB" ] && [ ! -e "$conf" ] && [ -n "$(ls -A "$CEPH_LAB")" ]; then
    echo "ceph: $CEPH_LAB holds something else" >&2 && return 1
  fi
  stop
  mkdir -p "$CEPH_LAB"/{mon,mgr,osd}
  trap give_up EXIT
  trap 'exit 130' INT TERM

  local fsid osd secret
  fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
  configuration "$fsid" >"$conf"
  {
    ceph-authtool --create-keyring "$CEPH_LAB/mon.a.keyring" --gen-key -n mon. --cap mon 'allow *'
    ceph-authtool --create-keyring "$CEPH_LAB/admin.keyring" --gen-key -n client.admin \
      --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    ceph-authtool "$CEPH_LAB/mon.a.keyring" --import-keyring "$CEPH_LAB/admin.keyring"
    monmaptool --create --fsid "$fsid" --addv a "[v2:$ADDRESS:$PORT,v1:$ADDRESS:$((PORT + 1))]" "$CEPH_LAB/monmap"
    ceph-mon --conf "$conf" --mkfs -i a --monmap "$CEPH_LAB/monmap" --keyring "$CEPH_LAB/mon.a.keyring"
    inside ceph-mon --conf "$conf" -i a --keyring "$CEPH_LAB/mon.a.keyring"

    ceph_ auth get-or-create mgr.x mon 'allow profile mgr' osd 'allow *' -o "$CEPH_LAB/mgr.x.keyring"
    inside ceph-mgr --conf "$conf" -i x

    secret=$(ceph-authtool --gen-print-key)
    printf '{"cephx_secret": "%s"}' "$secret" >"$CEPH_LAB/osd.json"
    ceph_ osd new "$osd" 0 -i "$CEPH_LAB/osd.json"
    # From a file: on a command line everybody could read it.
    printf '[osd.0]\n\tkey = %s\n' "$secret" >"$CEPH_LAB/osd.0.keyring"
    # It asks the monitor for its map.
    inside ceph-osd --conf "$conf" -i 0 --mkfs --osd-uuid "$osd"
    inside ceph-osd --conf "$conf" -i 0

    pools
  } >"$CEPH_LAB/start.log" 2>&1
  trap - EXIT INT TERM
  echo "$conf"
}

pools() {
  local pool
  # An erasure-coded pool needs three OSDs; `data` is a plain one that volumes keep their data in by the same options.
  for pool in one more data; do
    ceph_ osd pool create "$pool" 4 4
    ceph_ osd pool application enable "$pool" rbd
  done
  ceph_ auth get-or-create client.one mon 'profile rbd' osd 'profile rbd' mgr 'profile rbd' -o "$CEPH_LAB/one.keyring"
  (umask 077 && ceph-authtool "$CEPH_LAB/one.keyring" -n client.one --print-key >"$CEPH_LAB/one.key")
  for pool in one more; do inside timeout 60 rbd --conf "$conf" pool init "$pool"; done
}

status() { ceph_ --status; }

leftovers() {
  local found=0 daemon
  for daemon in "${daemons[@]}"; do
    if process "$daemon" >/dev/null; then echo "process $daemon" && found=1; fi
  done
  if [ -e "$CEPH_LAB" ]; then echo "directory $CEPH_LAB" && found=1; fi
  return $found
}

case ${1:-} in
  start | stop | status | leftovers) "$1" ;;
  *) sed -n '2,6s/^# //p' "$0" >&2 && exit 2 ;;
esac
