#!/bin/sh
# A folder with everything that an installation needs, and a tar file of it, to be carried to a machine without internet.
# Called by `make wheelhouse`, with a network, on a machine like that one: same Python version, same processor.
set -eu
cd "$(dirname "$0")/.."
python=$1
out=${2:-wheelhouse}
rm -rf "$out" && mkdir -p "$out/wheels"
"$python" -m pip wheel --quiet --disable-pip-version-check -c constraints.txt --wheel-dir "$out/wheels" dist/tscc_stream-*.whl
"$python" -c 'import sys, platform; print(f"{sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}")' > "$out/PYTHON"
basename dist/tscc_stream-*.whl | cut -d- -f2 > "$out/VERSION"
cp packaging/install.sh config.yaml README.md LICENSE "$out/"
cp -r systemd docs "$out/"
[ ! -d dashboards ] || cp -r dashboards "$out/"
(cd "$out" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum > SHA256SUMS)
tar -cf "$out.tar" -C "$(dirname "$out")" "$(basename "$out")"
echo "$out.tar: $(du -h "$out.tar" | cut -f1), Python $(cat "$out/PYTHON"); there: tar -xf $(basename "$out").tar && sh $(basename "$out")/install.sh"
