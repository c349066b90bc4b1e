#!/bin/bash
# guest-xml.sh NAME ID: prints the domain of a lab guest, address 10.9.0.ID/24, as OpenNebula would define it.
# Promise: nothing but standard output; the same arguments and environment give the same text.
#   LAB       the lab's directory, where kernel and initramfs are
#   MEMORY    MiB (128; below 96 the guest does not boot)
#   MTU       of the guest's interface (1500)
#   BRIDGE    on the hosts (br0)
#   DIRTY     MIB,PAGES_PER_SECOND that the guest writes (0,0); MIB at most MEMORY - 72
#   CONSOLE   file for the serial console, on the hosts (/var/lib/one/datastores/NAME.console)
set -euo pipefail
name=${1:?usage: guest-xml.sh NAME ID} id=${2:?usage: guest-xml.sh NAME ID}
LAB=${LAB:-/var/tmp/causeway-lab}
hex=$(printf %02x "$id")
guest_words="ip4=10.9.0.$id/24 mtu=${MTU:-1500} dirty=${DIRTY:-0,0}"

# The translation cache is kept small: its default is a gigabyte, more than all guests of a lab together.
cat <<XML
<domain type='qemu'>
  <name>$name</name>
  <uuid>00000000-0000-4000-9000-0000000000$hex</uuid>
  <memory unit='MiB'>${MEMORY:-128}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>$LAB/cache/guest/vmlinux</kernel>
    <initrd>$LAB/cache/guest/initrd.gz</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 mitigations=off $guest_words</cmdline>
  </os>
  <features><acpi/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-kvm-one</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <interface type='bridge'>
      <source bridge='${BRIDGE:-br0}'/>
      <mac address='02:00:0a:09:00:$hex'/>
      <target dev='one-$id-0'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'><source path='${CONSOLE:-/var/lib/one/datastores/$name.console}'/><target port='0'/></serial>
  </devices>
</domain>
XML
