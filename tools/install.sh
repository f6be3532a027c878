#!/usr/bin/env bash
# Make a virtual environment with Sitestream and everything for working on it. Usage: [PYTHON=python3.12] install.sh .venv
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
python=${PYTHON:-python3}

die() {
    echo "$*" >&2
    exit 1
}

command -v "$python" > /dev/null || die "There is no $python. Install Python 3.11 or newer, or say PYTHON=/path/to/python3."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old: Sitestream needs 3.11 or newer. Say PYTHON=/path/to/python3.11 or newer."

if ! "$python" -c 'import venv, ensurepip' 2> /dev/null; then # Debian packs these two apart
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        die "$python comes without its venv module. Cure: sudo apt-get install $package"
    fi
    echo "Installing $package (Debian packs Python's venv module apart)"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package"
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "Installing Sitestream and its tools into $venv (the first time a few minutes)"
"$venv/bin/python" -m pip install --disable-pip-version-check --editable '.[dev]'
