#!/bin/bash
# make-guest.sh DIR: the lab's guest, a Debian cloud kernel (DIR/vmlinux) and an initramfs (DIR/initrd.gz).
# Promise: both are complete or absent, readable by all, and made anew only when something they are made of has changed.
# Kernel and busybox are the machine's if it has them, else they are unpacked privately: a kernel is never installed.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
# shellcheck source=debs.sh
. "$here/debs.sh"

dir=${1:?usage: make-guest.sh DIR}
mkdir -p "$dir"
work=$dir/work

newest_kernel() { # ROOT -> version
  find "$1/lib/modules" -mindepth 1 -maxdepth 1 -name '*-cloud-amd64' -printf '%f\n' 2>/dev/null | sort -V | tail -n 1
}

is_static() { [ -x "$1" ] && ! ldd "$1" >/dev/null 2>&1; }

sources=$(sha256sum "$here"/{make-guest.sh,guest-init.sh,dirtier.c,disk-writer.c,echo.c} | cut -d' ' -f1 | sha256sum | cut -c1-16)
if [ "$(head -n 1 "$dir/made-of" 2>/dev/null)" = "$sources" ] && [ -e "$dir/vmlinux" ] && [ -e "$dir/initrd.gz" ]; then
  exit 0
fi

# Here and not in /tmp, so that the next run finds and removes what a killed one left.
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
rm -rf "$work"
mkdir "$work"

kernel_root='' busybox=/bin/busybox lacking=()
[ -n "$(newest_kernel "")" ] && [ -r "/boot/vmlinuz-$(newest_kernel "")" ] || lacking+=(kernel)
is_static "$busybox" || lacking+=(busybox-static)
if [ ${#lacking[@]} -gt 0 ]; then
  mkdir "$work/apt" "$work/debs"
  private_apt "$work/apt"
  for what in "${lacking[@]}"; do
    if [ "$what" = kernel ]; then
      # The package of that name is empty: it depends on the kernel of the day.
      what=$(apt-cache "${APT_OPTIONS[@]}" depends --important linux-image-cloud-amd64 |
        awk '$1 == "Depends:" { print $2; exit }')
      kernel_root=$work/debs
    else
      busybox=$work/debs/bin/busybox
    fi
    unpack_debs bookworm "$work/debs" "$what"
  done
fi
version=$(newest_kernel "$kernel_root")
[ -z "$kernel_root" ] || depmod -b "$kernel_root" "$version"

# Unpacked, the kernel is entered directly (PVH), which spares the guest from inflating itself under TCG.
unpack_kernel() { # BZIMAGE: setup_sects, payload_offset and payload_length are fields of the boot protocol's header
  local image=$1 sectors offset length payload=$work/payload
  sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$image")
  read -r offset length < <(od -An -tu4 -j $((0x248)) -N8 "$image")
  tail -c +$(((sectors + 1) * 512 + offset + 1)) "$image" | head -c "$length" >"$payload" || [ -s "$payload" ]
  case $(od -An -tx1 -N4 "$payload" | tr -d ' ') in
  28b52ffd) zstd -qdc "$payload" ;;
  fd377a58) xz -dc --single-stream "$payload" ;;
  1f8b*) gzip -qdc "$payload" ;;
  02214c18) lz4 -qdc "$payload" ;;
  *) echo "make-guest.sh: the compression of $image is unknown" >&2 ;;
  esac 2>/dev/null || :
}
unpack_kernel "$kernel_root/boot/vmlinuz-$version" >"$work/vmlinux"
if [ "$(head -c 4 "$work/vmlinux" | tail -c 3)" != ELF ]; then
  echo "make-guest.sh: no kernel in vmlinuz-$version" >&2
  exit 1
fi

root=$work/root
mkdir -p "$root"/{bin,dev,mnt,proc,sys,tmp,run,var/log,lib/modules,etc/acpi/PWRF}
cp "$busybox" "$root/bin/busybox"
gcc -O2 -Wall -static -s -o "$root/bin/dirtier" "$here/dirtier.c"
gcc -O2 -Wall -static -s -o "$root/bin/disk-writer" "$here/disk-writer.c"
gcc -O2 -Wall -static -s -o "$root/bin/echo-server" "$here/echo.c"
cp "$here/guest-init.sh" "$root/init"
# Where busybox's acpid looks when the power button is pressed.
printf '#!/bin/sh\npoweroff -f\n' >"$root/etc/acpi/PWRF/00000080"
chmod 755 "$root/init" "$root/etc/acpi/PWRF/00000080"
put_modules() { # LIST MODULE...: them and what they need, and LIST in the order in which they are loaded
  local list=$1 module
  shift
  for module; do
    modprobe -d "${kernel_root:-/}" -S "$version" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
  done | awk '!seen[$0]++' | while read -r file; do
    cp "$file" "$root/lib/modules/"
    basename "$file"
  done >"$work/$list"
  mv "$work/$list" "$root/lib/modules/$list"
}
put_modules order virtio_pci virtio_net virtio_blk virtio_balloon virtio_console evdev button
# Apart, because looking for a CD-ROM costs a boot half a second.
put_modules order.cdrom ata_piix sr_mod isofs
(cd "$root" && find . | cpio -o -H newc --quiet -R 0:0 | gzip -9n) >"$work/initrd.gz"

rm -f "$dir/made-of"
install -m 644 "$work/vmlinux" "$work/initrd.gz" "$dir/"
printf '%s\nkernel %s\n' "$sources" "$version" >"$dir/made-of"
echo "make-guest.sh: kernel $version, initramfs $(stat -c %s "$dir/initrd.gz") bytes"
