#!/usr/bin/env bash
# reflink.sh: how long an image takes to become a disk where files can share data: the benchmark `copy` on XFS, on a loop
# device, once with little data and once with much. Run as root; needs 8 GiB free below TMPDIR for a moment.
# Promise: the mount is in a namespace of its own, and everything goes when the script ends.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

if [ "${1-}" != inside ]; then
  [ "$(id -u)" = 0 ] || { echo "reflink.sh: only root can mount a file system" >&2; exit 1; }
  cargo bench -p causeway-tm --bench copy --no-run --quiet
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  unshare --mount "$0" inside "$dir"
  exit
fi

dir=$2
truncate -s 40G "$dir/xfs"
mkfs.xfs -q -m reflink=1 "$dir/xfs"
mkdir "$dir/mounted"
mount -o loop "$dir/xfs" "$dir/mounted"
for data in 128 2048; do
  TMPDIR=$dir/mounted COPY_DATA_MIB=$data cargo bench -p causeway-tm --bench copy --quiet
done
umount "$dir/mounted"
