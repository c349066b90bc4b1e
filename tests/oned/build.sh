#!/usr/bin/env bash
# build.sh STOCK CACHE: prints the directory of a built core of OpenNebula 7.4.0: STOCK itself if scons has been run
# there, else a copy of it below CACHE, which it builds (a quarter of an hour of two cores, once).
# Promise: STOCK is only read; a build that was interrupted is continued by the next run.
set -euo pipefail
stock=$(cd "$1" && pwd -P) cache=$2
here=$(dirname "$(readlink -f "$0")")

die() { echo "build.sh: $*" >&2; exit 1; }

is_built() { # DIR
  [ -x "$1/src/nebula/oned" ] && [ -x "$1/src/monitor/src/monitor/onemonitord" ]
}

if [ ! -f "$stock/install.sh" ] || [ ! -f "$stock/SConstruct" ]; then
  die "$1 has no sources of OpenNebula: STOCK must name the top directory of release 7.4.0"
fi
grep -q "VERSION = '7\.4\.0'" "$stock/src/oca/ruby/opennebula/version.rb" || die "$1 is not release 7.4.0"

# What oned, its Ruby drivers and its command line need to run; hosts take their programs from this machine, too.
"$here/../lab/packages.sh" curl genisoimage libxmlrpc-core-c3 libxmlrpc-c++8v5 pciutils rsync ruby ruby-ffi-rzmq \
  ruby-nokogiri ruby-sequel ruby-sqlite3 ruby-treetop ruby-xmlrpc >&2

if is_built "$stock"; then
  echo "$stock"
  exit
fi
"$here/../lab/packages.sh" g++ libcurl4-openssl-dev libsqlite3-dev libssl-dev libxml2-dev libxmlrpc-c++8-dev \
  libxmlrpc-core-c3-dev scons zlib1g-dev >&2
copy=$cache/opennebula-7.4.0
if [ ! -f "$copy/.copied" ]; then
  rm -rf "$copy"
  mkdir -p "$copy"
  # What is not of the core stays behind, but for what its build and its installation look for.
  tar -C "$stock" --exclude=./.git --exclude='./src/fireedge/src' --exclude='node_modules' -cf - . | tar -C "$copy" -xf -
  touch "$copy/.copied"
fi
echo "build.sh: building OpenNebula's core in $copy; see scons.log there" >&2
cd "$copy"
nice -n 19 scons "-j$(nproc)" grpc=no svncterm=no >scons.log 2>&1 || die "scons failed: $(tail -n 3 scons.log)"
is_built "$copy" || die "scons has ended, and oned is not there: see $copy/scons.log"
echo "$copy"
