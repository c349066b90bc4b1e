#!/bin/bash
# get-qemu.sh DIR: QEMU 10 from bookworm-backports, private to DIR; nothing on the machine is installed or replaced.
# Promise: afterwards DIR/qemu is an emulator that runs and that libvirt may be given by name. A DIR that already
# holds one is reused without any download. A download that breaks off leaves DIR as it was.
# Why not Debian 12's own 7.2: under TCG it loses guest writes during live migration.
set -euo pipefail
# shellcheck source=debs.sh
. "$(dirname "$(readlink -f "$0")")/debs.sh"

dir=${1:?usage: get-qemu.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
libraries=usr/lib/x86_64-linux-gnu

works() { # enough to start a machine: version, modules, firmware
  grep -qs -- "-L '$dir/" "$dir/qemu" && "$dir/qemu" --version 2>/dev/null | grep -q 'version 10\.'
}
lacking() { LD_LIBRARY_PATH=$1/$libraries ldd "$1/usr/bin/qemu-system-x86_64" | awk '/not found/ { print $1 }'; }

if works; then
  exit 0
fi

# Here and not in /tmp, so that the next run finds and removes what a killed one left.
work=$dir/work
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
rm -rf "$work"
mkdir -p "$work/apt" "$work/tree"
private_apt "$work/apt"
unpack_debs bookworm-backports "$work/tree" qemu-system-x86 qemu-system-common qemu-system-data qemu-block-extra seabios

# Libraries that the machine lacks come beside the emulator, unpacked like it.
if [ -n "$(lacking "$work/tree")" ]; then
  mapfile -t packages < <(missing_libraries bookworm-backports qemu-system-x86)
  unpack_debs bookworm "$work/tree" "${packages[@]}"
  missing=$(lacking "$work/tree")
  if [ -n "$missing" ]; then
    echo "get-qemu.sh: QEMU wants libraries that no package brought: ${missing//$'\n'/ }" >&2
    exit 1
  fi
fi

find "$work/tree/usr/share" -mindepth 1 -maxdepth 1 ! -name qemu ! -name seabios -exec rm -rf {} +
rm -rf "$dir/tree"
mv "$work/tree" "$dir/tree"
# libvirt clears the environment of what it starts, so a wrapper says where modules, libraries and firmware are. Without
# the module path QEMU 10 would load whatever the machine has under /usr/lib, and abort.
cat >"$dir/qemu" <<WRAPPER
#!/bin/sh
export QEMU_MODULE_DIR='$dir/tree/$libraries/qemu' LD_LIBRARY_PATH='$dir/tree/$libraries'
exec '$dir/tree/usr/bin/qemu-system-x86_64' -L '$dir/tree/usr/share/qemu' -L '$dir/tree/usr/share/seabios' "\$@"
WRAPPER
chmod 755 "$dir/qemu"
if ! works; then
  echo "get-qemu.sh: the unpacked emulator does not run:" >&2
  "$dir/qemu" --version >&2
  exit 1
fi
echo "get-qemu.sh: $("$dir/qemu" --version | head -n 1)"
