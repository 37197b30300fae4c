#!/bin/sh
# Installs the Debian packages that are missing, and says first which they are and how large the download is.
# usage: setup.sh PACKAGE...      needs root only where something is missing
set -eu

missing=
for package in "$@"; do
    state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    case "$state" in ii*) ;; *) missing="$missing $package" ;; esac
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || {
    echo "These packages are missing, and this is no Debian system that could install them:$missing" >&2
    exit 69
}
root=
if [ "$(id -u)" != 0 ]; then
    root=sudo
    command -v sudo >/dev/null || {
        echo "Run this as root: apt-get install --no-install-recommends$missing" >&2
        exit 69
    }
fi
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
echo "Debian packages that are missing:$missing"
# shellcheck disable=SC2086 # a list of words
$root apt-get install --no-install-recommends --assume-no $missing 2>/dev/null | grep -E '^(Need to get|After this)' || true
# shellcheck disable=SC2086
$root apt-get install --no-install-recommends --yes -qq $missing >/dev/null
