#!/bin/sh
# Install tscc-stream from the folder that this file lies in, without any network. As root:
#
#   sh install.sh                 into /opt/tscc-stream-VERSION; /opt/tscc-stream then points to it
#   sh install.sh --prefix DIR    into DIR-VERSION instead, and nothing of systemd
#   sh install.sh --back VERSION  point to a version that was installed before
#
# Nothing is overwritten: an older version stays beside the new one, and so does a configuration that is there.
set -eu
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

# In one step: whoever starts the program meanwhile finds the old one or the new one.
point_to() {
  if [ -e "$prefix" ] && [ ! -L "$prefix" ]; then
    fail "$prefix is a folder of an installation made by hand; move it away first, for example to $prefix-by-hand"
  fi
  ln -s "$(basename "$1")" "$prefix.new" && mv -T "$prefix.new" "$prefix"
}

if [ -n "$back" ]; then
  [ -x "$prefix-$back/bin/tscc-stream" ] || fail "$prefix-$back: no such version is installed"
  point_to "$prefix-$back"
  say "$prefix points to version $back; systemctl restart tscc-stream"
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
for model in demo rutford; do
  "$target/bin/tscc-stream" model verify "models/$model" >/dev/null || fail "models/$model does not verify here"
done
point_to "$target"

if [ -n "$etc" ]; then
  install -d -m 755 "$etc"
  if [ ! -e "$etc/config.yaml" ]; then
    sed 's|^state_dir: var |state_dir: /var/lib/tscc-stream |' "$here/config.yaml" > "$etc/config.yaml"
    say "$etc/config.yaml is the shipped example; put your servers and streams there"
  fi
  if [ -d "$units" ]; then
    for unit in "$here"/systemd/*.service; do install -m 644 "$unit" "$units/"; done
    systemctl daemon-reload 2>/dev/null || true # inside an image no systemd runs
  fi
fi
say "version $version is installed; $prefix/bin/tscc-stream --help"
[ -z "$etc" ] || say "next: edit $etc/config.yaml, then systemctl enable --now tscc-stream"
