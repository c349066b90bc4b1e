#!/usr/bin/env bash
# front-end.sh install BUILT: puts a built OpenNebula onto this machine as its Debian packages would: same places, same
# owners, and a package database that vouches for the files. Run as root on the lab's front-end.
# front-end.sh node: what a host's package brings, and oned does not copy to hosts by itself.
# front-end.sh state FILE...: prints what stands at each of these places, and below: kind, owner, mode, time, content.
# Promise: BUILT is only read; what is made lies in the machine's own root, and ends with it.
set -euo pipefail

die() { echo "front-end.sh: $*" >&2; exit 1; }

install_stock() { # BUILT
  local built=$1 log=/var/log/opennebula-install.log needed
  cd "$built"
  install -d -o oneadmin -g oneadmin /run/lock /run/lock/one /run/one
  # It goes on where something is missing: a core alone has no web interface, and no packages of other people's.
  ./install.sh -u oneadmin -g oneadmin >"$log" 2>&1 || :
  for needed in /usr/bin/oned /usr/bin/onevm /usr/lib/one/mads/one_vmm_exec /usr/lib/one/mads/onemonitord \
    /etc/one/oned.conf /var/lib/one/remotes/vmm/kvm/save /var/lib/one/remotes/tm/qcow2/clone; do
    [ -e "$needed" ] || die "OpenNebula's install.sh left no $needed: see $log"
  done
  loader
  # A gem that Debian has not, for schedules of services: the client library only loads it.
  ruby -e 'require "parse-cron"' 2>/dev/null || : >/usr/lib/one/ruby/parse-cron.rb
  package_database
}

loader() { # its packages bring gems, and a file that says where; here gems are Debian's, found where Ruby looks anyway
  # Some scripts take the place of OpenNebula's own libraries from it.
  printf '%s\n' "RUBY_LIB_LOCATION = '/usr/lib/one/ruby' unless defined?(RUBY_LIB_LOCATION)" \
    >"$(ruby -e 'puts RbConfig::CONFIG["vendordir"]')/load_opennebula_paths.rb"
}

package_database() { # what dpkg would know
  local info=/var/lib/dpkg/info
  cd /
  find var/lib/one/remotes usr/lib/one/mads -type f ! -path '*/remotes/etc/*' -exec md5sum {} + >$info/opennebula.md5sums
  find /var/lib/one/remotes /usr/lib/one/mads >$info/opennebula.list
}

configure() {
  install -d -o oneadmin -g oneadmin -m 700 /var/lib/one/.one
  printf 'oneadmin:lab\n' >/var/lib/one/.one/one_auth
  chown oneadmin:oneadmin /var/lib/one/.one/one_auth
  chmod 600 /var/lib/one/.one/one_auth
}

state() { # PATH...
  local path
  for path; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    # `onehost sync` notes its time in the remotes.
    find "$path" ! -name .update -printf '%p %y %U:%G %m %l' \( -type f -printf ' %T@ ' -exec sha256sum {} \; -o -printf '\n' \)
  done | sort
}

case ${1-} in
install)
  install_stock "$2"
  configure
  ;;
node) loader ;;
state) state "${@:2}" ;;
*) die "what is '${1-}'? install BUILT, node, or state PATH..." ;;
esac
