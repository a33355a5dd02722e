#!/bin/sh
# Install tscc-stream from the folder that this file lies in, without any network. As root:
#
#   sh install.sh                 into /opt/tscc-stream-VERSION; /opt/tscc-stream then points to it
#   sh install.sh --prefix DIR    into DIR-VERSION instead, and nothing of systemd
#   sh install.sh --back VERSION  point to a version that was installed before, and bring its units back
#
# An older version stays beside the new one, and a configuration that is there stays as it is. Units are those of the
# version that is pointed to: your own changes belong into drop-ins (systemctl edit). A unit that another one replaces
# is kept as NAME.service.before.
set -eu
umask 022 # the services' users must be able to run and read what root's own umask may keep from them
here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/tscc-stream
etc=/etc/tscc-stream
units=/etc/systemd/system
python=${PYTHON:-python3}
back=

say() { echo "tscc-stream: $*"; }
fail() { echo "tscc-stream: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
  case $1 in
    --prefix) [ $# -ge 2 ] || fail "--prefix: expected a folder"; prefix=$2; etc=; units=; shift 2 ;;
    --back) [ $# -ge 2 ] || fail "--back: expected a version, such as 0.1.0"; back=$2; shift 2 ;;
    *) fail "$1: expected --prefix DIR or --back VERSION" ;;
  esac
done

verify() {
  for model in demo rutford; do
    "$1/bin/tscc-stream" model verify "models/$model" >/dev/null || return 1
  done
}

# In one step: whoever starts the program meanwhile finds the old one or the new one.
point_to() {
  if [ -e "$prefix" ] && [ ! -L "$prefix" ]; then
    fail "$prefix is a folder of an installation made by hand; move it away first, for example to $prefix-by-hand"
  fi
  name=$(basename "$1")
  # -f and -T: a link that a killed installation left is replaced, not followed into the folder that it points to
  ln -sfnT "$name" "$prefix.new" && mv -T "$prefix.new" "$prefix" && [ "$(readlink "$prefix")" = "$name" ] \
    || fail "$prefix could not be pointed to $1, see above"
}

put_units() {
  [ -n "$units" ] && [ -d "$units" ] || return 0
  if [ ! -d "$1/systemd" ]; then
    say "$1 has no units with it: those in $units stay as they are"
    return 0
  fi
  for unit in "$1"/systemd/*.service; do install -C -b -S .before -m 644 "$unit" "$units/"; done
  for unit in "$units"/tscc-*.service; do
    [ -e "$1/systemd/$(basename "$unit")" ] || say "$unit: this version has no such unit; disable it, or it runs what is not there"
  done
  systemctl daemon-reload 2>/dev/null || true # inside an image no systemd runs
}

# A configuration with keys that only the other version knows would keep its service from starting.
look_at_sites() {
  [ -n "$etc" ] || return 0
  for site in "$etc"/*.yaml; do
    [ ! -e "$site" ] || "$1/bin/tscc-stream" check-config "$site" >/dev/null \
      || say "$site: this version refuses it, see above; mend it before anything is started again"
  done
}

# Processes that run go on with the code that they were started with.
say_what_next() {
  [ -n "$units" ] || return 0
  running=$(systemctl list-units --plain --no-legend --state=active,activating,reloading 'tscc-*.service' 2>/dev/null \
    | while read -r unit rest; do printf ' %s' "$unit"; done) || running=
  if [ -n "$running" ]; then
    say "next, since what runs goes on with the version before: systemctl restart$running"
  else
    say "next: edit $etc/config.yaml, then systemctl enable --now tscc-stream"
  fi
}

if [ -n "$back" ]; then
  [ -x "$prefix-$back/bin/tscc-stream" ] || fail "$prefix-$back: no such version is installed"
  verify "$prefix-$back" || fail "$prefix-$back: its models do not verify here; $prefix stays as it is"
  point_to "$prefix-$back"
  put_units "$prefix-$back"
  look_at_sites "$prefix-$back"
  say "$prefix points to version $back"
  say_what_next
  exit 0
fi

version=$(cat "$here/VERSION")
wanted=$(cat "$here/PYTHON")
found=$("$python" -c 'import sys, platform; print(f"{sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}")') \
  || fail "$python: not found; expected Python ${wanted% *} with venv (Debian: python3-venv)"
[ "$found" = "$wanted" ] || fail "$python is $found; this wheelhouse is for $wanted (another one: PYTHON=python3.X sh install.sh)"
(cd "$here" && sha256sum --check --quiet SHA256SUMS) || fail "$here: files are damaged or missing, see above; copy the wheelhouse anew"

target="$prefix-$version"
if [ -e "$target" ]; then
  [ ! -L "$prefix" ] || [ "$(readlink -f "$prefix")" != "$(readlink -f "$target")" ] \
    || fail "$target: this version is installed and in use"
  rm -rf "$target" # left by an installation that did not end
fi
say "installing version $version into $target"
"$python" -m venv "$target" || fail "$python -m venv failed (Debian: apt install python3-venv)"
"$target/bin/python" -m pip install --quiet --no-index --find-links "$here/wheels" --disable-pip-version-check \
  "tscc-stream==$version" || { rm -rf "$target"; fail "pip failed, see above; nothing was changed"; }
verify "$target" || { rm -rf "$target"; fail "its models do not verify here; nothing was changed"; }
cp -r "$here/systemd" "$target/" # for --back
point_to "$target"

if [ -n "$etc" ]; then
  install -d -m 755 "$etc"
  if [ ! -e "$etc/config.yaml" ]; then
    sed 's|^state_dir: var |state_dir: /var/lib/tscc-stream |' "$here/config.yaml" > "$etc/config.yaml"
    say "$etc/config.yaml is the shipped example; put your servers and streams there"
  fi
fi
put_units "$target"
look_at_sites "$target"
say "version $version is installed; $prefix/bin/tscc-stream --help"
say_what_next
