#!/bin/sh
# Make .venv from constraints.txt, or bring it up to date. Does nothing if it is as it should be.
#
#   tools/environment.sh               PYTHON=python3.12 tools/environment.sh
#
# The stamp in .venv names what it was made from: the pins, the project's dependencies and the interpreter.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() {
    printf 'tools/environment.sh: %s\n' "$1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "there is no $python on PATH: install Python 3.11 or newer, or name it: PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" -V) is too old: Python 3.11 or newer is wanted; name it: PYTHON=/path/to/python3"

wanted=$("$python" - constraints.txt pyproject.toml <<'CODE'
import hashlib, pathlib, sys, tomllib
project = tomllib.loads(pathlib.Path(sys.argv[2]).read_text())["project"]
parts = [project["dependencies"], project["optional-dependencies"], sys.version_info[:3]]
text = pathlib.Path(sys.argv[1]).read_text() + repr(parts)
print(hashlib.sha256(text.encode()).hexdigest())
CODE
)
if [ -x .venv/bin/python ] && [ "$(cat .venv/made_from 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi

# fasttext comes as C++ source
if ! { command -v "${CXX:-c++}" || command -v g++ || command -v clang++; } >/dev/null 2>&1; then
    fail "no C++ compiler on PATH: install one (Debian: apt-get install g++ python3-dev), or set CXX"
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments: install its venv module (Debian: apt-get install python3-venv)"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[ -e "$header" ] || fail "no $header: install Python's headers (Debian: apt-get install python3-dev)"

# one at a time: the second one finds the stamp
mkdir -p .cache
exec 9>.cache/environment.lock
if command -v flock >/dev/null 2>&1; then flock 9; fi
if [ "$(cat .venv/made_from 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi

echo "making .venv with $("$python" -V) from constraints.txt; this takes minutes" >&2
.venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
rm -f .venv/made_from
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -c constraints.txt -e '.[data,train,s3,mpi,dev]' ||
    fail "pip failed: see above; without network, point PIP_INDEX_URL or PIP_FIND_LINKS at a mirror"
printf '%s\n' "$wanted" >.venv/made_from
