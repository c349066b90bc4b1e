# shellcheck shell=bash
# Debian packages unpacked privately instead of installed. Sourced by get-qemu.sh and make-guest.sh.
# Promise: the machine's packages and sources stay as they are, everything lies below the directory named. Only where
# the machine has never read its package lists are they read, since apt then does not even tell its mirror.

# The mirror the machine uses for bookworm.
mirror() {
  # shellcheck disable=SC2016  # apt, not the shell, expands $(RELEASE)
  apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' |
    awk '$1 == "bookworm" && $2 == "main" { print $3; exit }'
}

private_apt() { # DIR: prepares DIR and sets APT_OPTIONS
  local dir=$1 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  mkdir -p "$dir/lists/partial" "$dir/archives/partial"
  mirror=$(mirror)
  if [ -z "$mirror" ]; then
    apt-get -qq -o DPkg::Lock::Timeout=300 update || :
    mirror=$(mirror)
  fi
  if [ -z "$mirror" ]; then
    echo "${0##*/}: this machine has no apt source for 'bookworm main'" >&2
    return 1
  fi
  # Only a suite is added to what the machine has, and only in this private list.
  printf "deb [signed-by=$keyring] $mirror %s main\n" bookworm bookworm-backports >"$dir/sources.list"
  APT_OPTIONS=(-qq -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$dir/lists" -o Dir::State::status=/dev/null -o "Dir::Cache=$dir" -o APT::Sandbox::User=root)
  echo "${0##*/}: reading package lists of $mirror"
  apt-get "${APT_OPTIONS[@]}" update
}

unpack_debs() { # SUITE INTO PACKAGE...: download and unpack
  local suite=$1 into=$2 downloads deb
  shift 2
  downloads=$into.debs
  mkdir "$downloads"
  echo "${0##*/}: downloading $*"
  (cd "$downloads" && apt-get "${APT_OPTIONS[@]}" -t "$suite" download "$@")
  for deb in "$downloads"/*.deb; do
    dpkg -x "$deb" "$into"
  done
  rm -rf "$downloads"
}

missing_libraries() { # SUITE PACKAGE: the libraries it depends on that are not installed here
  local package
  apt-cache "${APT_OPTIONS[@]}" -o "APT::Default-Release=$1" depends --recurse --important "$2" |
    awk '/^lib[a-z0-9.+-]*$/ && !seen[$1]++' | while read -r package; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}
