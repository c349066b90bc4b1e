#!/bin/bash
# packages.sh [PACKAGE...]: the Debian packages that building and testing need, and any further ones named.
# Promise: installs what is missing and nothing else, says what it does, asks nothing, and is done in a moment when
# nothing is missing. No service is started by it; what was installed stays installed.
# QEMU, the guest's kernel and its busybox are not here: get-qemu.sh and make-guest.sh unpack them privately.
set -euo pipefail

wanted=(
  # to build
  gcc libc6-dev libvirt-dev pkg-config
  # the hosts
  libvirt-clients libvirt-daemon-system openssh-client openssh-server qemu-utils sudo
  # their networks, and looking at them from outside
  iproute2 iputils-ping nftables openvswitch-switch ethtool tcpdump
  # a cluster for disks that are volumes
  ceph-common ceph-mgr ceph-mon ceph-osd
  # what the lab's scripts call
  bc cpio gnutls-bin kmod lz4 procps util-linux xz-utils zstd
  # to check the scripts themselves
  shellcheck
  "$@"
)

# One query for all: the installed ones it prints, the unknown ones it complains about.
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
  awk '$1 == "installed" { print $2 }') || :
missing=()
for package in "${wanted[@]}"; do
  grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "packages: all ${#wanted[@]} are installed"
  exit 0
fi
[ "$(id -u)" = 0 ] || { echo "packages: must be root to install ${missing[*]}" >&2; exit 1; }

# Debian asks this file whether a freshly installed service may start. The lab runs its own libvirtd and sshd.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
fi

export DEBIAN_FRONTEND=noninteractive
install=(apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}")
echo "packages: installing ${missing[*]}"
if ! "${install[@]}" >/dev/null 2>&1; then
  # Old lists name files that the mirror no longer has; no lists at all name none.
  echo "packages: reading the package lists anew"
  # A foreign source that fails is no reason to stop: whether the packages can be had shows next.
  apt-get -qq -o DPkg::Lock::Timeout=300 update || :
  "${install[@]}" >/dev/null
fi
echo "packages: installed ${#missing[@]}, $((${#wanted[@]} - ${#missing[@]})) were there"
