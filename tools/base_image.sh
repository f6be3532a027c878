#!/usr/bin/env bash
# Make a small Debian with Python as a tarball for `docker import`, without any image registry. Needs root and debootstrap.
# Usage: base_image.sh OUT.tar
set -euo pipefail
out=$1
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

debootstrap --variant=minbase --include=python3,ca-certificates bookworm "$work/root"
tar --create --file "$work/image.tar" --directory "$work/root" --numeric-owner \
    --exclude './var/cache/apt/*' --exclude './var/lib/apt/lists/*' --exclude './var/log/*' \
    --exclude './usr/share/doc/*' --exclude './usr/share/man/*' --exclude './usr/share/locale/*' .
mv "$work/image.tar" "$out"
