#!/bin/sh
# Writes the versions that the images are built with, and the hashes of their files, anew: after dependencies in
# pyproject.toml changed, and to update. From the root of this repository; it needs uv.
set -eu
cd "$(dirname "$0")"

lock() { # NAME WHAT SOURCE [OPTION ...]
    name=$1 what=$2
    shift 2
    packages=$(uv pip compile --quiet --no-header --no-annotate --generate-hashes --upgrade \
        --python-version 3.13 --python-platform linux "$@")
    printf '# Made by examples/deploy/lock.sh: %s.\n%s\n' "$what" "$packages" >"$name.lock"
}

sed -n 's/^requires = \["\(.*\)"\]$/\1/p' ../../pyproject.toml |
    lock build 'what builds the package: [build-system] in pyproject.toml' -
lock runtime 'what the package needs' ../../pyproject.toml
lock server 'what the package needs, with the extra postgres' ../../pyproject.toml --extra postgres
