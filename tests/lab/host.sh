#!/bin/bash
# host.sh PLACE: the inside of one lab machine (fe, h1, h2, ...); started by lab.sh in fresh net, mount, uts, ipc and
# pid namespaces, where it becomes the first process.
# Promise: the machine's root is an overlay whose upper layer lives in memory and in this mount namespace only, so
# whatever is written there ends with this process, and the real machine sees none of it. Three places are shared by
# intent: $LAB (read-only), /var/lib/one/datastores and /usr/libexec/causeway.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"

place=$1
state=$LAB/$place

build_root() {
  local memory=$state/memory root=$state/memory/root real
  mount --make-rprivate /
  mkdir -p "$memory"
  mount -t tmpfs -o mode=755 "causeway-lab-$P" "$memory"
  mkdir "$memory/upper" "$memory/work" "$root"
  mount -t overlay -o "lowerdir=/,upperdir=$memory/upper,workdir=$memory/work" "causeway-lab-$P" "$root"
  # An overlay shows one file system only: where the real machine keeps these apart, each gets an overlay of its own.
  for real in /boot /etc /home /opt /usr /var /var/lib /var/tmp; do
    mountpoint -q "$real" || continue
    mkdir -p "$memory/upper-of$real" "$memory/work-of$real"
    mount -t overlay -o "lowerdir=$real,upperdir=$memory/upper-of$real,workdir=$memory/work-of$real" \
      "causeway-lab-$P" "$root$real"
  done

  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t tmpfs -o mode=755 run "$root/run"
  mount -t tmpfs -o mode=1777 tmp "$root/tmp"
  build_dev "$root/dev"

  # Should the real machine be an OpenNebula machine itself, its keys and images stay out of here.
  [ "$(stat -f -c %T "$root")" = overlayfs ]
  rm -rf "${root:?}$ONE_HOME" "$root/usr/libexec/causeway"
  mkdir -p "$root$LAB" "$root$ONE_HOME/datastores" "$root/usr/libexec/causeway"
  mount --bind "$LAB" "$root$LAB"
  mount -o remount,bind,ro "$root$LAB"
  mount --bind "$LAB/datastores" "$root$ONE_HOME/datastores"
  mount --bind "$LAB/libexec" "$root/usr/libexec/causeway"

  mkdir "$root/.outside"
  cd "$root"
  pivot_root . .outside
  cd /
  umount -l /.outside
  rmdir /.outside
}

build_dev() { # without /dev/kvm on purpose: guests here are interpreted, wherever the lab runs
  local dev=$1 node
  mount -t tmpfs -o mode=755 dev "$dev"
  for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0'; do
    # shellcheck disable=SC2086  # name, major and minor are three words
    set -- $node
    mknod -m 666 "$dev/$1" c "$2" "$3"
  done
  mkdir "$dev/net" "$dev/pts" "$dev/shm"
  mknod -m 600 "$dev/net/tun" c 10 200
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dev/pts"
  mount -t tmpfs -o mode=1777 shm "$dev/shm"
  ln -s pts/ptmx "$dev/ptmx"
  ln -s /proc/self/fd "$dev/fd"
  ln -s fd/0 "$dev/stdin"
  ln -s fd/1 "$dev/stdout"
  ln -s fd/2 "$dev/stderr"
}

build_users() {
  # A machine that already has the user or the number must not lend the lab its own.
  sed -i -E "/^oneadmin:|^[^:]*:[^:]*:$ONE_ID:/d" /etc/passwd /etc/group
  sed -i '/^oneadmin:/d' /etc/shadow
  echo "oneadmin:x:$ONE_ID:$ONE_ID:OpenNebula:$ONE_HOME:/bin/bash" >>/etc/passwd
  echo "oneadmin:x:$ONE_ID:" >>/etc/group
  # '*' is "no password", where '!' would be "locked" and refuse keys too.
  echo 'oneadmin:*:19000:0:99999:7:::' >>/etc/shadow
  getent passwd sshd >/dev/null || echo 'sshd:x:9868:65534::/run/sshd:/usr/sbin/nologin' >>/etc/passwd

  rm -rf /etc/sudoers.d /etc/sudoers
  mkdir -m 750 /etc/sudoers.d
  printf '%s\n' 'Defaults env_reset' \
    'Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"' \
    'root ALL=(ALL:ALL) ALL' '@includedir /etc/sudoers.d' >/etc/sudoers
  [ "$place" = fe ] || echo 'oneadmin ALL=(root) NOPASSWD: /usr/libexec/causeway/causeway-root ""' >/etc/sudoers.d/causeway
  chmod 440 /etc/sudoers
  chmod -f 440 /etc/sudoers.d/causeway || true
}

build_names() {
  local name
  hostname "$place"
  echo "$place" >/etc/hostname
  {
    echo '127.0.0.1 localhost'
    for name in $(places); do echo "$(underlay "$name") $name"; done
  } >/etc/hosts
  # There is no name server here: without this line every unknown name waits for one.
  sed -i 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf
}

build_one() { # the directories an OpenNebula machine has, with their owners
  local own="install -d -o $ONE_ID -g $ONE_ID"
  rm -rf /var/lib/causeway /etc/causeway /var/tmp/one /etc/one
  chown "$ONE_ID:$ONE_ID" "$ONE_HOME"
  $own -m 755 /run/one /var/tmp/one
  $own -m 700 /run/one/ssh-socks "$ONE_HOME/.ssh"
  install -d -m 755 /var/lib/causeway /etc/causeway
  cp "$LAB/keys/known_hosts" "$LAB/keys/authorized_keys" "$ONE_HOME/.ssh/"
  if [ "$place" = fe ]; then
    install -d -m 750 -g "$ONE_ID" /etc/one
    $own -m 755 "$ONE_HOME/remotes" "$ONE_HOME/vms" /var/log/one
    cp "$LAB/keys/id_ed25519" "$LAB/keys/id_ed25519.pub" "$ONE_HOME/.ssh/"
    # The settings OpenNebula ships for its user, but for strict checking: here every host key is known beforehand.
    printf '%s\n' 'Host *' '  StrictHostKeyChecking yes' '  ControlMaster no' \
      '  ControlPath /run/one/ssh-socks/ctl-M-%C.sock' '  ControlPersist 70s' >"$ONE_HOME/.ssh/config"
  fi
  chown -R "$ONE_ID:$ONE_ID" "$ONE_HOME/.ssh"
  chmod 600 "$ONE_HOME"/.ssh/*
}

start_sshd() {
  rm -rf /etc/ssh
  install -d -m 755 /etc/ssh
  install -m 600 "$LAB/keys/$place.ssh" /etc/ssh/ssh_host_ed25519_key
  cat >/etc/ssh/sshd_config <<CONF
ListenAddress $(underlay "$place")
HostKey /etc/ssh/ssh_host_ed25519_key
AllowUsers oneadmin
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 200
LoginGraceTime 20
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
CONF
  install -d -m 755 /run/sshd
  /usr/sbin/sshd -E /var/log/sshd.log
}

start_agent() {
  local as=(setpriv --reuid "$ONE_ID" --regid "$ONE_ID" --clear-groups)
  "${as[@]}" ssh-agent -a "$AGENT" >/dev/null
  SSH_AUTH_SOCK=$AGENT "${as[@]}" ssh-add -q "$ONE_HOME/.ssh/id_ed25519"
}

configure_libvirt() {
  local n=${place#h} emulator
  # Whatever the real machine has defined stays outside.
  rm -rf /etc/libvirt/qemu /etc/libvirt/storage /etc/libvirt/secrets /etc/libvirt/nwfilter /etc/pki
  for dir in /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
    mkdir -p "$dir"
    mount -t tmpfs -o mode=755 libvirt "$dir"
  done
  for emulator in qemu-kvm-one qemu-system-x86_64; do
    ln -sf "$LAB/cache/qemu10/qemu" "/usr/bin/$emulator"
  done
  cat >/etc/libvirt/libvirtd.conf <<CONF
host_uuid = "00000000-0000-4000-8000-$(printf %012d "$n")"
unix_sock_group = "oneadmin"
unix_sock_rw_perms = "0770"
unix_sock_ro_perms = "0777"
auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tcp = 0
listen_tls = $TLS
listen_addr = "$(underlay "$place")"
auth_tls = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
max_clients = 200
CONF
  cat >/etc/libvirt/qemu.conf <<CONF
security_driver = "none"
user = "oneadmin"
group = "oneadmin"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
migration_address = "0.0.0.0"
migration_host = "$(underlay "$place")"
migration_port_min = 49152
migration_port_max = 49215
stdio_handler = "logd"
CONF
  [[ $JOINED == *memory* ]] || echo 'cgroup_controllers = []' >>/etc/libvirt/qemu.conf
  [ "$TLS" = 1 ] || return 0
  echo 'default_tls_x509_cert_dir = "/etc/pki/qemu"' >>/etc/libvirt/qemu.conf
  install_certificates "$LAB/keys"
}

install_certificates() { # one certificate is server and client to libvirt, and to QEMU's migration streams
  local keys=$1 role
  install -d -m 755 /etc/pki/CA /etc/pki/libvirt /etc/pki/qemu
  install -d -m 750 -g "$ONE_ID" /etc/pki/libvirt/private
  install -m 644 "$keys/ca.pem" /etc/pki/CA/cacert.pem
  install -m 644 "$keys/ca.pem" /etc/pki/qemu/ca-cert.pem
  for role in server client; do
    install -m 644 "$keys/$place.pem" "/etc/pki/libvirt/${role}cert.pem"
    install -m 640 -g "$ONE_ID" "$keys/$place.key" "/etc/pki/libvirt/private/${role}key.pem"
    install -m 644 "$keys/$place.pem" "/etc/pki/qemu/$role-cert.pem"
    install -m 640 -g "$ONE_ID" "$keys/$place.key" "/etc/pki/qemu/$role-key.pem"
  done
}

# A group of our own below each cgroup v1 controller, joined before the cgroup namespace is entered, so that libvirt
# then sees it as the root. Where the kernel gives a controller to v2, or mounts several together, the attempt fails.
join_cgroups() { # adds the controllers joined to JOINED
  local controller file group at=$state/cgroup
  mount --make-rprivate /
  mkdir "$at"
  for controller in cpu cpuacct memory blkio devices pids cpuset freezer; do
    mount -t cgroup -o "$controller" cgroup "$at" 2>/dev/null || continue
    group=$at/$P$place
    mkdir -p "$group"
    if [ "$controller" = cpuset ]; then
      for file in cpuset.cpus cpuset.mems; do cat "$at/$file" >"$group/$file"; done
    fi
    echo $$ >"$group/cgroup.procs"
    umount "$at"
    JOINED+=" $controller"
  done
  rmdir "$at"
}

mount_cgroups() { # in the cgroup namespace a mount shows our group as the root
  local controller
  [ -n "${JOINED:-}" ] || return 0
  mount -t tmpfs -o mode=755,size=1m cgroup /sys/fs/cgroup
  for controller in $JOINED; do
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
  done
}

start_switch() { # Open vSwitch with its own data path: this machine's kernel may have none
  local dir
  for dir in /etc/openvswitch /var/lib/openvswitch /var/log/openvswitch; do
    mkdir -p "$dir"
    mount -t tmpfs -o mode=755 openvswitch "$dir"
  done
  mkdir -p /run/openvswitch
  ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
  ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach --no-chdir \
    --log-file -vconsole:off
  ovs-vsctl --no-wait init
  ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir --log-file -vconsole:off
}

serve() {
  build_users
  build_names
  build_one
  start_sshd
  if [ "$OVS" = 1 ]; then start_switch; fi
  if [ "$place" = fe ]; then
    start_agent
  else
    mount_cgroups
    configure_libvirt
    : >/run/utmp
    virtlogd -d
    if [ "$TLS" = 1 ]; then libvirtd -d --listen; else libvirtd -d; fi
  fi
  touch /run/lab-is-up
  # Stay as the first process: reap what is orphaned, and take everything along when ended.
  trap 'exit 0' TERM INT
  while :; do
    sleep 3600 &
    wait $! || :
  done
}

case ${2:-outside} in
outside)
  # The number by which the real machine knows this process: /proc is still that machine's.
  read -r pid _ </proc/self/stat
  echo "$pid" >"$state/pid"
  export JOINED=''
  if [ "$place" != fe ] && [ "$CG" != 0 ]; then
    join_cgroups
    if [ "$CG" = 1 ] && [[ $JOINED != *memory* ]]; then
      echo "lab: CG=1, but this machine has no cgroup v1 memory controller to give" >&2
      exit 1
    fi
  fi
  exec unshare -C -- "$0" "$place" inside
  ;;
inside)
  build_root
  serve
  ;;
esac
