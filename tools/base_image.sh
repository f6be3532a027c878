#!/usr/bin/env bash
# Make a small base image as a tarball for `docker import`, without any image registry: Debian's Python and what it needs to run,
# no shell, no package manager (see containers/slim.py). Needs root, debootstrap, and a python with sitestream[deploy].
# Usage: base_image.sh OUT.tar
set -euo pipefail
out=$(realpath --canonicalize-missing "$1")
cd "$(dirname "$0")/.."
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

debootstrap --variant=minbase --include=python3,ca-certificates bookworm "$work/root"
tar --create --file "$work/full.tar" --directory "$work/root" --numeric-owner .
python -m containers.slim "$work/full.tar" "$work/slim.tar"
mv "$work/slim.tar" "$out"
