# shellcheck shell=bash
# shellcheck disable=SC2034  # used by whoever sources this
# What the lab's scripts agree on: names, addresses and places. Sourced by lab.sh and host.sh; does nothing by itself.
# Promise: every name the lab gives to something outside its own directory (namespace, cgroup) begins with $P.

LAB=${LAB:-/var/tmp/causeway-lab}
NHOSTS=${NHOSTS:-2} CG=${CG:-auto} TLS=${TLS:-1} OVS=${OVS:-0} P=${P:-}
case $LAB in
/*) ;;
*) echo "lab: LAB must be an absolute path, not '$LAB'" >&2; exit 2 ;;
esac
LAB=${LAB%/}

# A running lab remembers its settings, so that later commands need no more than LAB to find it.
if [ -r "$LAB/settings" ]; then
  asked=$P
  # shellcheck source=/dev/null
  . "$LAB/settings"
  if [ -n "$asked" ] && [ "$asked" != "$P" ]; then
    echo "lab: the lab in $LAB has P=$P, not P=$asked" >&2
    exit 2
  fi
  unset asked
fi
P=${P:-cw}

# OpenNebula's packages give its user this number on every host.
ONE_ID=9869
ONE_HOME=/var/lib/one
AGENT=/run/one/ssh-agent.sock

FABRIC=${P}fab FABRIC_BRIDGE=fab0 FABRIC_ADDRESS=10.77.0.254
# A guest keeps the usual 1500 bytes: the underlay carries them and VXLAN's 50 on top.
UNDERLAY_MTU=1600
VXLAN_PORT=8472

places() { # fe h1 h2 ...
  echo fe
  seq -f 'h%g' "$NHOSTS"
}

underlay() { # PLACE -> its address on the fabric
  case $1 in
  fe) echo 10.77.0.100 ;;
  fab) echo "$FABRIC_ADDRESS" ;;
  h*) echo "10.77.0.${1#h}" ;;
  esac
}
