#!/bin/busybox sh
# shellcheck shell=dash
# The guest's first process; make-guest.sh puts it into the initramfs as /init.
# Promise: once "GUEST-READY" is on the console the guest has its address, echoes on port 7, answers its verifier on
# UDP 7007, and switches itself off when ACPI asks it to.
# Read from the kernel's command line: ip4=ADDR/PLEN gw=ADDR mtu=BYTES dirty=MIB,PAGES_PER_SECOND
# write=DEVICE,BLOCKS_PER_SECOND context=tell also=ADDR/PLEN dial=ADDR:PORT,ADDR:PORT
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

load() { # FILE: the modules it lists
  while read -r module; do
    insmod "/lib/modules/$module"
  done <"$1"
}
load /lib/modules/order

# What the VM is told, as far as it is told it by its context image: the variables that a guest would take its address
# from, and each file with its mode, size and sum; first by Rock Ridge names, then by Joliet ones.
tell_context() {
  device='' waited=0
  load /lib/modules/order.cdrom
  until device=$(findfs LABEL=CONTEXT) || [ $waited -ge 100 ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  for view in ro ro,norock; do
    mount -t iso9660 -o $view "$device" /mnt || continue
    # shellcheck source=/dev/null
    (. /mnt/context.sh && echo "CONTEXT $view variable $ETH0_IP")
    (cd /mnt && for file in *; do
      echo "CONTEXT $view file $(stat -c '%a %s' "$file") $(sha256sum <"$file" | cut -c 1-64) $file"
    done)
    umount /mnt
  done
  echo "CONTEXT end"
}

ip4='' gw='' mtu='' dirty=0,0 write='' context='' also='' dial=''
read -r line </proc/cmdline
for word in $line; do
  case $word in
  ip4=*) ip4=${word#*=} ;;
  gw=*) gw=${word#*=} ;;
  mtu=*) mtu=${word#*=} ;;
  dirty=*) dirty=${word#*=} ;;
  write=*) write=${word#*=} ;;
  context=*) context=${word#*=} ;;
  also=*) also=${word#*=} ;;
  dial=*) dial=${word#*=} ;;
  esac
done

[ -z "$write" ] || disk-writer "${write%,*}" "${write#*,}" &

ip link set lo up
waited=0
while [ ! -e /sys/class/net/eth0 ] && [ $waited -lt 50 ]; do
  sleep 0.1
  waited=$((waited + 1))
done
[ -z "$mtu" ] || ip link set eth0 mtu "$mtu"
ip link set eth0 up
if [ -n "$ip4" ]; then
  ip addr add "$ip4" dev eth0
  arping -U -c 2 -I eth0 "${ip4%/*}" >/dev/null 2>&1 &
fi
[ -z "$also" ] || ip addr add "$also" dev eth0
[ -z "$gw" ] || ip route add default via "$gw"

# Connections that the guest begins, and by which it says nothing: again and again, until there is one.
mkfifo /tmp/silence
for peer in $(echo "$dial" | tr , ' '); do
  while :; do
    nc -w 2 "${peer%:*}" "${peer#*:}" <>/tmp/silence >/dev/null 2>&1
    sleep 1
  done &
done

# Both sit at the default priority: an echo that waits for the writer would show as a gap in the network.
echo-server &
dirtier "${dirty%,*}" "${dirty#*,}" &
acpid -l /dev/null -p /tmp/acpid.pid
[ -z "$context" ] || tell_context

echo "GUEST-READY up=$(cut -d' ' -f1 /proc/uptime) mem=$(awk '/MemAvailable/ { print $2 }' /proc/meminfo)kB"
while :; do
  setsid cttyhack sh </dev/console >/dev/console 2>&1
  sleep 1
done
