#!/usr/bin/env bash
# install.sh: puts Causeway onto an OpenNebula front-end or host, takes it off again, or shows it at work on this machine.
#
# Promises
# - Every change is written down, with a copy of what was there, before it is made. It may be killed at any moment:
#   run again it goes on, and `uninstall` brings back every file as it was: content, mode, owner, link.
# - Nothing is changed before everything has been looked at. What stands in the way and comes neither from OpenNebula's
#   package nor from here is kept, or refused with the words that tell what to do; only --replace puts it aside.
# - A second run changes nothing. A file that was edited after it was installed is not touched by `uninstall`.
# shellcheck disable=SC2317  # some functions are handed on by name
set -euo pipefail
export LC_ALL=C
umask 022
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
usage() {
  cat <<'TEXT'
install.sh frontend [OPTIONS]    our driver processes into oned.conf (VM_MAD kvm and qemu, TM_MAD), wrappers into the remotes
install.sh host [OPTIONS]        our programs, the list of uplinks, the line for sudo
install.sh uninstall [OPTIONS]   everything as it was before
install.sh demo [WORDS]          builds, starts two hosts on this machine, moves a guest; WORDS are
                                 --moves N, --link MBIT, --fabric vxlan|bridge, --beside-bridge, --output DIR, --lab DIR

  --dry-run         prints what would be done
  --from DIR        where the built programs are (target/release)
  --root DIR        works below DIR instead of /, for packages and tests
  --uplink NAME     host: a device that virtual networks may use; may be repeated
  --replace WHAT    puts WHAT aside although it is neither stock nor ours: a slot (vmm/kvm/deploy), a path, or `all`;
                    uninstall: brings the former WHAT back although it was edited since
  --keep WHAT       frontend: leaves a slot (vnm/vxlan/post) or a driver's slots (vnm/vxlan) as they are
  --help            this text
First `host` on every host, then `frontend`: the remotes of the front-end are copied to the hosts by themselves.
TEXT
}

root='' from='' dry='' rehearsal='' replace=() leave=() uplinks=()
libexec=/usr/libexec/causeway
remotes=/var/lib/one/remotes
oned_conf=/etc/one/oned.conf
installed=/var/lib/causeway-install

say() { [ -n "$rehearsal" ] && [ -z "$dry" ] || printf '%-9s %s\n' "${dry:+would }$1" "$2"; }
die() { echo "install.sh: $*" >&2; exit 1; }
wrong() { echo "install.sh: $1; --help tells the words" >&2; exit 2; }

# ---- What was there before: a ledger of lines `KIND<tab>WHAT<tab>PATH`, only ever appended to.
#   was   N     PATH   before our change PATH was what copies/N is
#   none  -     PATH   ... there was nothing
#   put   PRINT PATH   we are about to put something there that looks like this
#   dir   -     PATH   we are about to make this directory
note() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$ledger"; }

print_of() { # FILE: what stands there, in a word
  if [ -L "$1" ]; then echo "link:$(readlink "$1")"
  elif [ -f "$1" ]; then echo "file:$(sha256sum <"$1" | cut -d ' ' -f 1)"
  elif [ -e "$1" ]; then echo other; else echo absent; fi
}

last_former() { # PATH: the last `was` or `none` line about it, without the path
  [ -f "$ledger" ] || return 0
  awk -F '\t' -v path="$1" '($1 == "was" || $1 == "none") && $3 == path { last = $1 " " $2 } END { print last }' "$ledger"
}

# PATH PRINT: whether we put that there.
is_ours() { grep -qsxF -- "put"$'\t'"$2"$'\t'"$1" "$ledger"; }

former_print() { # `was N` or `none -`
  case $1 in was\ *) print_of "$copies/${1#was }" ;; none\ *) echo absent ;; esac
}

remember() { # PATH: what stands there, unless that is ours or known already; of oned.conf, what it was without us
  local path=$1 at=$root$1 now number
  now=$(print_of "$at")
  if is_ours "$path" "$now" || [ "$(former_print "$(last_former "$path")")" = "$now" ]; then return; fi
  number=$(($(wc -l <"$ledger") + 1))
  if [ "$now" = absent ]; then note none - "$path" && return; fi
  # A copy with our EXECUTABLEs would bring them back after the programs are gone.
  if [ "$path" = "$oned_conf" ] && grep -qF "$libexec/causeway-" "$at"; then
    stage_exchanged out
    at=$staged
  fi
  copy "$at" "$copies/$number"
  note was "$number" "$path"
}

copy() { # FROM TO: with mode and owners, a link as a link; TO is there whole or not at all, and nothing is written through it
  cp -aT --no-dereference --remove-destination -- "$1" "$2.causeway-new"
  mv -T -- "$2.causeway-new" "$2"
}

open_ledger() {
  ledger=$root$installed/ledger copies=$root$installed/copies staged=$root$installed/staged
  [ -n "$rehearsal" ] && return
  [ -d "$root$installed" ] || mkdir -m 700 -- "$root$installed"
  # The kernel frees the lock with the last process that has the descriptor.
  exec 9<"$root$installed"
  flock -n 9 || die "another install.sh is at work here"
  mkdir -p -- "$copies"
  : >>"$ledger"
}

# ---- Changes

oneadmin_ids() { # ROLE
  local entry uid gid lookup=(getent passwd oneadmin)
  [ -z "$root" ] || lookup=(grep '^oneadmin:' "$root/etc/passwd")
  entry=$("${lookup[@]}") || :
  [ -n "$entry" ] || die "there is no user oneadmin: install OpenNebula's package for a ${1} first"
  IFS=: read -r _ _ uid gid _ <<<"$entry"
  ids=([root:root]=0:0 [root:oneadmin]=0:$gid [oneadmin:oneadmin]=$uid:$gid)
}

# FILE OWNERS. Only root can give files away; a tree made by another user for a package gets its owners there.
own() { [ "$EUID" != 0 ] || chown -h -- "${ids[$2]}" "$1"; }

has() { # FILE MODE OWNERS: whether it has them
  local owners=${ids[$3]}
  [ "$EUID" = 0 ] || owners=$(stat -c %u:%g -- "$1")
  [ "$(stat -c %a:%u:%g -- "$1")" = "$2:$owners" ]
}

declare -A ids told=() # owners as numbers; directories whose making has been told

make_dir() { # PATH [MODE OWNERS]: with mode and owners one that exists must have them
  local path=$1 mode=${2-755} owners=${3-root:root} at=$root$1
  if [ -d "$at" ] && [ ! -L "$at" ]; then
    [ $# = 1 ] || has "$at" "$mode" "$owners" || die "$path must be $owners with mode $mode: chown and chmod it, or move it away"
    return 0
  fi
  if [ -e "$at" ] || [ -L "$at" ]; then die "$path is there and is no directory: move it away"; fi
  [ "${path%/*}" = '' ] || make_dir "${path%/*}"
  [ -n "${told[$path:$rehearsal]-}" ] || say make "$path/"
  told[$path:$rehearsal]=1
  [ -z "$rehearsal" ] || return 0
  note dir - "$path"
  # Under another name until it is root's or oneadmin's as it is to be.
  rm -rf -- "$at.causeway-new"
  mkdir -m "$mode" -- "$at.causeway-new"
  own "$at.causeway-new" "$owners"
  mv -T -- "$at.causeway-new" "$at"
}

is_stock() { # PATH: whether OpenNebula's package vouches for what stands there, or did before we replaced it
  local at=$root$1 sum target former info=$root/var/lib/dpkg/info
  # So a link to another slot is judged alike before and after that slot is ours.
  if is_ours "$1" "$(print_of "$at")"; then former=$(last_former "$1") && at=$copies/${former#* }; fi
  if [ -L "$at" ]; then
    target=$(readlink "$at")
    # A ring of links ends where the kernel would end it.
    [[ $target != /* ]] && [ ${#FUNCNAME[@]} -lt 40 ] || return 1
    grep -qsxF -- "$1" "$info"/opennebula*.list || return 1
    is_stock "$(realpath -m --no-symlinks -- "${1%/*}/$target")"
    return
  fi
  [ -f "$at" ] || return 1
  read -r sum _ < <(md5sum <"$at")
  grep -qshxF -- "$sum  ${1#/}" "$info"/opennebula*.md5sums
}

named() { # WORDS NAME...: whether one of the names is among the words
  local name
  for name in "${@:2}"; do if [[ " $1 " == *" $name "* ]]; then return 0; fi; done
  return 1
}

may_replace() { # PATH [NAME]: whether nobody's own work stands there
  local now
  now=$(print_of "$root$1")
  [ "$now" != other ] || die "$1 is there and is neither a file nor a link: move it away"
  [ "$now" = absent ] || is_ours "$1" "$now" || is_stock "$1" || named "${replace[*]}" all "$@"
}

swap_in() { # PATH: what is staged takes its place
  note put "$(print_of "$staged")" "$1"
  copy "$staged" "$root$1"
}

put_file() { # PATH MODE OWNERS COMMAND...: the command's output
  local path=$1 mode=$2 owners=$3 at=$root$1
  shift 3
  if [ ! -L "$at" ] && [ -f "$at" ] && cmp -s -- <("$@") "$at" && has "$at" "$mode" "$owners"; then return; fi
  make_dir "${path%/*}"
  say put "$path $mode $owners"
  [ -z "$rehearsal" ] || return 0
  remember "$path"
  rm -f -- "$staged"
  "$@" >"$staged"
  own "$staged" "$owners"
  chmod "$mode" -- "$staged"
  swap_in "$path"
}

put_link() { # PATH TARGET
  [ "$(print_of "$root$1")" != "link:$2" ] || return 0
  make_dir "${1%/*}"
  say link "$1 -> $2"
  [ -z "$rehearsal" ] || return 0
  remember "$1"
  ln -sfn -- "$2" "$staged"
  swap_in "$1"
}

# PATH: a slot can be left to another, this not.
needed() { may_replace "$1" || die "$1 is there and was not installed by this script: look at it, then give --replace $1"; }

# ---- Both roles

put_programs() { # NAME...
  local name
  for name; do
    [ -x "$from/$name" ] || die "$from/$name is not built: cargo build --release --locked -p causeway-programs --bins"
    needed "$libexec/$name"
  done
  make_dir "$libexec" 755 root:root
  for name; do put_file "$libexec/$name" 755 root:root cat -- "$from/$name"; done
  needed /usr/bin/causeway
  put_link /usr/bin/causeway "$libexec/causeway"
}

# ---- Front-end

# PROGRAM SLOT: exactly what the driver process takes for ours.
wrapper() { printf '#!/bin/sh\nexec %s slot %s "$@"\n' "$libexec/$1" "$2"; }

put_slots() { # PROGRAM FAMILY/DRIVER VERB...
  local program=$1 driver=$2 slot
  shift 2
  if [ -L "$root$remotes/$driver" ]; then
    say keep "$driver: it is a link to $(readlink "$root$remotes/$driver"), and has the wrappers there"
    return
  fi
  for slot in "${@/#/$driver/}"; do
    if named "${leave[*]}" "$driver" "$slot"; then say keep "$slot: as it is"; elif may_replace "$remotes/$slot" "$slot"; then
      put_file "$remotes/$slot" 755 oneadmin:oneadmin wrapper "$program" "$slot"
    else
      say keep "$slot: neither stock nor ours, so it stays and is run in our place (--replace $slot puts it aside)"
    fi
  done
}

# Prints the file with the EXECUTABLE of the VM_MAD entries `kvm` and `qemu`, and of TM_MAD, exchanged for ours (`in`) or
# for stock's (`out`); every other byte stays.
exchange() { # FILE in|out
  local tm=''
  # What `in` has taken, `out` takes too, with whatever is built then.
  if grep -qF "$libexec/causeway-tm" "$1" || { [ "$2" = in ] && [ -x "$from/causeway-tm" ]; }; then tm=1; fi
  awk -v way="$2" -v tm="$tm" -v ours="$libexec/causeway-" -v file="${1#"$root"}" -v ended="$(tail -c 1 "$1" | wc -l)" '
    function fail(number, text) { print file " line " number ": " text >"/dev/stderr"; failed = 1; exit 3 }
    # The line with x for what is quoted, which may go over several lines, and without its comment: columns stay.
    function mask(s,   out, i, c) {
      for (i = 1; i <= length(s); i++) {
        c = substr(s, i, 1)
        if (c == "\"") quote = !quote
        else if (c == "#" && !quote) break
        out = out (quote && c != "\"" ? "x" : c)
      }
      return out
    }
    function entry(   rest, stock, mine, old, new) {
      open = 0
      if (kind == "VM" ? name != "kvm" && name != "qemu" : !tm) return
      name = kind == "VM" ? "VM_MAD " name : "TM_MAD"
      if (count != 1 || value == "") fail(opened, name " has not one EXECUTABLE in quotes: mend it first")
      if (kind == "VM") found = 1
      old = kind == "VM" ? "one_vmm_exec" : "one_tm"
      new = ours (kind == "VM" ? "vmm" : "tm")
      if (way == "out") { rest = old; old = new; new = rest }
      rest = substr(lines[line], column + length(value))
      if (value == old || value == "/usr/lib/one/mads/" old) lines[line] = substr(lines[line], 1, column - 1) new rest
      else if (value != new) print file " line " line ": " name " is served by " value ", which stays" >"/dev/stderr"
    }
    {
      lines[NR] = $0
      m = mask($0)
      at = 1
      if (!open) {
        if (match(m, /^[ \t]*[VT]M_MAD[ \t]*=[ \t]*\[/)) {
          open = 1; opened = NR; name = ""; count = 0; at = RLENGTH + 1; kind = m ~ /^[ \t]*V/ ? "VM" : "TM"
        } else if (m ~ /(^|[^A-Za-z0-9_])[VT]M_MAD([^A-Za-z0-9_]|$)/) fail(NR, "not in the form VM_MAD = [")
        else next
      }
      end = index(substr(m, at), "]")
      stop = end ? at + end - 1 : length(m) + 1
      while (match(substr(m, at, stop - at), /[A-Za-z_]+[ \t]*=[ \t]*"?/)) {
        key = toupper(substr(m, at + RSTART - 1, RLENGTH))
        at += RSTART + RLENGTH - 1
        size = key ~ /"$/ ? index(substr(m, at), "\"") - 1 : 0
        text = size > 0 ? substr($0, at, size) : ""
        if (key ~ /^NAME[ \t=]/) name = text
        if (key ~ /^EXECUTABLE[ \t=]/) { count++; value = text; line = NR; column = at }
      }
      if (end) entry()
      if (end && substr(m, stop) ~ /[VT]M_MAD/) fail(NR, "two entries on one line: give each its own")
    }
    END {
      if (failed) exit 3
      if (open) fail(opened, kind "_MAD entry that never ends")
      if (!found) fail(NR, "there is no VM_MAD entry with the name kvm or qemu")
      for (i = 1; i <= NR; i++) printf "%s%s", lines[i], (i < NR || ended ? "\n" : "")
    }' "$1"
}

stage_exchanged() { # in|out: in a file with the mode and owners of oned.conf
  cp -aT --remove-destination -- "$root$oned_conf" "$staged"
  exchange "$root$oned_conf" "$1" 2>/dev/null >"$staged"
}

swap_executables() { # in|out
  local at=$root$oned_conf
  [ ! -L "$at" ] || die "$oned_conf is a link: change EXECUTABLE of VM_MAD kvm and qemu and of TM_MAD there yourself"
  if [ -n "$rehearsal" ]; then exchange "$at" "$1" >/dev/null || die "$oned_conf can't be edited"; fi
  ! cmp -s -- <(exchange "$at" "$1" 2>/dev/null) "$at" || return 0
  say edit "$oned_conf"
  [ -n "$rehearsal" ] && [ -z "$dry" ] ||
    diff -u --label "$oned_conf" --label "$oned_conf" -- "$at" <(exchange "$at" "$1" 2>/dev/null) || :
  [ -z "$rehearsal" ] || return 0
  [ "$1" = out ] || remember "$oned_conf"
  stage_exchanged "$1"
  # What `out` leaves is neither ours nor the former state: the ledger has no word for it, and needs none.
  if [ "$1" = out ]; then copy "$staged" "$at"; else swap_in "$oned_conf"; fi
}

frontend() {
  oneadmin_ids front-end
  local programs=(causeway-vmm causeway) driver
  [ -f "$root$oned_conf" ] || die "$oned_conf is not there: is this the front-end? Install OpenNebula's packages first"
  [ ! -x "$from/causeway-tm" ] || programs+=(causeway-tm)
  put_programs "${programs[@]}"
  make_dir /var/lib/one/causeway 700 oneadmin:oneadmin
  put_slots causeway-host vmm/kvm deploy shutdown cancel migrate
  for driver in vnm/{bridge,fw,802.1Q,vxlan,ovswitch{,_vxlan}}; do put_slots causeway-net "$driver" pre post clean update_sg; put_slots causeway-host "$driver" update_nic; done
  if [ -x "$from/causeway-tm" ]; then
    local files=(clone ln mv mvds cpds delete mk{image,swap} resize context {pre,post,fail}migrate monitor snap_{create,create_live,delete,revert}{,.ssh} {clone,ln,cpds,mv,mvds}.ssh {pre,post}backup{,_live} restore)
    for driver in tm/shared tm/qcow2; do put_slots causeway-tm "$driver" "${files[@]}"; done
    put_slots causeway-tm tm/ceph {clone,ln,mvds,cpds,delete,resize}{,.ssh} mv mk{image,swap} snap_{create,create_live,delete,revert} context {pre,post,fail}migrate monitor {pre,post}backup{,_live} restore
    put_slots causeway-tm tm/ssh mv delete mk{image,swap} context; put_slots causeway-host tm/ssh monitor_ds
    for driver in datastore/{fs,ceph}; do put_slots causeway-tm "$driver" cp clone rm mkfs stat monitor export snap_{delete,revert,flatten}; done
  fi
  swap_executables in
  [ -z "$rehearsal" ] || return 0
  cat <<TEXT
What remains for you
  1. Every host must have had \`install.sh host\`: from now on OpenNebula copies the wrappers to them.
  2. systemctl restart opennebula      (oned reads oned.conf when it starts; do it while nothing is deployed or moved)
  3. onehost sync --force              (as oneadmin)
TEXT
}

# ---- Host

uplinks_text() {
  echo '# What virtual networks may use on this host, one name per line: devices (PHYDEV), and bridges of your own.'
  echo '# causeway-root joins guests to nothing else. Only root may write this file.'
  [ ${#uplinks[@]} = 0 ] || printf '%s\n' "${uplinks[@]}"
}

sudoers_text() {
  echo '# Causeway: the networks of guests are made by a small program of its own. It takes no arguments.'
  echo "oneadmin ALL=(root) NOPASSWD: $libexec/causeway-root \"\""
}

put_uplinks() {
  local path=/etc/causeway/uplinks name
  make_dir /etc/causeway 755 root:root
  for name in "${uplinks[@]}"; do [[ $name =~ ^[A-Za-z0-9_.-]{1,15}$ ]] || die "--uplink $name: that is no device's name"; done
  if [ -e "$root$path" ] && [ ${#uplinks[@]} = 0 ]; then return; fi
  may_replace "$path" || die "$path has been edited: add ${uplinks[*]} there yourself, or give --replace $path"
  put_file "$path" 644 root:root uplinks_text
}

host() {
  oneadmin_ids host
  local sudoers=/etc/sudoers.d/causeway
  if [ -z "$root" ]; then
    command -v sudo >/dev/null || die "sudo is not installed: apt-get install sudo"
    # It is the one that needs libvirt's client library; better told now than by the first deploy.
    "$from/causeway-host" --version >/dev/null 2>&1 || [ ! -x "$from/causeway-host" ] ||
      die "$from/causeway-host does not start on this host: apt-get install libvirt0"
  fi
  put_programs causeway-host causeway-disks causeway-net causeway-root causeway
  # The user's state; root keeps its own in a directory of it. Root owns the directory and the sticky bit is set, so
  # that the user can neither rename nor replace root's part.
  make_dir /var/lib/causeway 1770 root:oneadmin
  make_dir /var/lib/causeway/network 700 root:root
  put_uplinks
  needed "$sudoers"
  ! command -v visudo >/dev/null || visudo -cqf <(sudoers_text) || die "visudo does not take our line for sudo"
  put_file "$sudoers" 440 root:root sudoers_text
  [ -z "$rehearsal" ] || return 0
  cat <<'TEXT'
What remains for you
  /etc/causeway/uplinks must name the devices under your VXLAN networks (PHYDEV); a network on any other is refused.
  The front-end comes last: `install.sh frontend` there.
TEXT
}

# ---- Away with it

keep() { kept=1 && say keep "$1"; }

bring_back() { # PATH `was N`|`none -`
  local path=$1 former=$2 at=$root$1 now before
  now=$(print_of "$at")
  before=$(former_print "$former")
  [ -n "$rehearsal" ] || rm -f -- "$at.causeway-new"
  [ "$now" != "$before" ] || return 0
  if [ "$now" != absent ] && ! is_ours "$path" "$now" && ! named "${replace[*]}" all "$path"; then
    if [ "$path" = "$oned_conf" ]; then swap_executables out; else keep "$path: it was changed after it was installed"; fi
  elif [ "$before" = absent ]; then
    say remove "$path"
    [ -n "$rehearsal" ] || rm -f -- "$at"
  else
    say restore "$path"
    [ -n "$rehearsal" ] || copy "$copies/${former#was }" "$at"
  fi
}

remove_dir() { # PATH: one that we made
  local at=$root$1
  [ -n "$rehearsal" ] || rm -rf -- "$at.causeway-new"
  [ -d "$at" ] || return 0
  # What was collected in it is the admin's to keep; there is no former state to keep for it.
  if [ -n "$rehearsal" ] || rmdir -- "$at" 2>/dev/null; then say remove "$1/"; else say keep "$1/: it is not empty"; fi
}

uninstall() {
  local kind what path
  local -A seen=()
  kept=''
  [ -f "$ledger" ] || return 0
  while IFS=$'\t' read -r kind what path; do
    case $kind in
      was | none)
        # The last one is the state before us; an older one is what a package upgrade has replaced.
        [ -n "${seen[$path]-}" ] || bring_back "$path" "$kind $what"
        seen[$path]=1 ;;
      dir) remove_dir "$path" ;;
    esac
  done < <(tac -- "$ledger")
  # One that came with our EXECUTABLEs, from another front-end, say: the ledger does not know it.
  [ -n "${seen[$oned_conf]-}" ] || ! grep -qsF "$libexec/causeway-" "$root$oned_conf" || swap_executables out
  [ -z "$rehearsal" ] || return 0
  if [ -n "$kept" ]; then
    echo "The former state of what was kept stays in $installed; uninstall --replace PATH brings it back all the same."
  else
    # The ledger first: without it the rest means nothing.
    rm -f -- "$ledger"
    rm -rf -- "$root${installed:?}"
  fi
  [ ! -f "$root$oned_conf" ] || echo 'On the front-end: systemctl restart opennebula, then onehost sync --force as oneadmin.'
}

# ---- Demo

demo() {
  PATH=$PATH:$HOME/.cargo/bin
  cd "$here"
  [ "$EUID" = 0 ] || die "the demo makes network namespaces and mounts: run it as root"
  command -v cargo >/dev/null || die "cargo is not here: install Rust 1.95 or newer, as https://rustup.rs says"
  tests/lab/packages.sh
  cargo build --release --locked -p causeway-programs -p causeway-suite -p causeway-demo --bins
  exec "${CARGO_TARGET_DIR:-target}/release/causeway-demo" "$@"
}

main() {
  if [[ " $* " == *" --help "* ]]; then usage && exit; fi
  role=${1-}
  case $role in
    frontend | host | uninstall) shift ;;
    demo) demo "${@:2}" ;;
    *) wrong "what is '$role'?" ;;
  esac
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) dry=1 ;;
      --from | --root | --uplink | --replace | --keep) [ $# -gt 1 ] || wrong "$1 needs a value" ;;&
      --from) shift && from=$1 ;;
      --root) shift && root=$(cd "$1" && pwd -P | sed 's|^/$||') || exit 2 ;;
      --uplink) shift && uplinks+=("$1") ;;
      --replace) shift && replace+=("$1") ;;
      --keep) shift && leave+=("$1") ;;
      *) wrong "what is '$1'?" ;;
    esac
    shift
  done
  from=${from:-$here/target/release}
  [ -n "$root" ] || [ "$EUID" = 0 ] || die "must be root"
  if [ ! -d "$root/etc" ] || [ ! -d "$root/var/lib" ]; then die "${root:-/} is no system's root: no /etc or no /var/lib"; fi
  [ "$role" != uninstall ] || [ -d "$root$installed" ] || { echo "nothing is installed here"; exit; }

  # Once to look, and to refuse before anything has been changed; then in earnest.
  for rehearsal in 1 ''; do
    open_ledger
    case $role in frontend) frontend ;; host) host ;; uninstall) uninstall ;; esac
    [ -z "$dry" ] || break
  done
  # Here and not below: a script that is exchanged while it runs must not be read on.
  exit 0
}
main "$@"
