#!/usr/bin/env bash
# bash run.sh demo                 five shapes in a minute
# bash run.sh shapes 15-1          the built-in synthetic stream
# bash run.sh voc 15-1 [options]   VOC 2012 (in $DATA_ROOT or ./data)
# bash run.sh table2 [options]     all methods and protocols, one table
# bash run.sh cifar100 10-split    image labels: CIFAR-100, tiny-imagenet 25-split, or the built-in shapes-cls 5-split
# bash run.sh table1 [options]     the classification tables
# bash run.sh test                 the test-suite
# bash run.sh lint                 ruff, mypy and codespell
# bash run.sh docs                 the site with the API reference, into site/
# bash run.sh COMMAND ...          any other command of css: extend, table, evaluate, analyse, predict, report, data, ...
#
# Uses the active environment if it has the packages, else makes .venv beside this file. GPUS=n sets the number of
# processes, GPUS=all takes every GPU. An interrupted run goes on with the same command.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
css="$root/css/__main__.py" # as a file, which works beside a css.py or tasks.py of the user's, where -m css does not

has_packages() { # does this python have everything, new enough?
    command -v "$1" >/dev/null && "$1" - "$root/pyproject.toml" <<'PY' 2>/dev/null
import sys
sys.path[:] = filter(None, sys.path) # a json.py or re.py of the user's in the current folder is not the library's
import re
from importlib.metadata import version
lines = re.findall(r'"([a-z][a-z0-9-]*)>=([0-9.]+)', open(sys.argv[1]).read())
numbers = lambda text: [int(part) for part in re.findall(r"\d+", text)[:3]]
new_enough = all(numbers(version(name)) >= numbers(least) for name, least in lines if name != "setuptools")
sys.exit(sys.version_info < (3, 10) or not new_enough)
PY
}

install() { # the project with an extra of pyproject.toml, into the environment that is used
    if command -v uv >/dev/null; then
        uv pip install --python "$(command -v "$python")" -e "$root[$1]"
    else
        "$python" -m pip install --disable-pip-version-check -e "$root[$1]"
    fi
}

make_environment() {
    if command -v uv >/dev/null; then
        uv venv --clear --python '>=3.10' "$root/.venv"
    else
        local base
        for base in python3 python; do
            command -v "$base" >/dev/null && "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' && break
            base=""
        done
        [ -n "$base" ] || { echo "run.sh needs Python 3.10 or newer on the PATH." >&2; exit 2; }
        "$base" -m venv --clear "$root/.venv"
    fi
    install test
    cp "$root/pyproject.toml" "$root/.venv/installed.toml" # last, so that a killed installation is made again
}

python=python
if ! has_packages python; then
    python="$root/.venv/bin/python"
    cmp -s "$root/pyproject.toml" "$root/.venv/installed.toml" || make_environment
fi

[ $# -gt 0 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
command="$1"; shift
case "$command" in
    table2) exec "$python" "$css" table "$root/recipes/table2.yaml" "$@" ;;
    table1)
        code=0
        for recipe in "$root"/recipes/table1-*.yaml; do "$python" "$css" table "$recipe" "$@" || code=$?; done
        exit "$code" ;;
    test)
        "$python" -c 'import ipykernel, nbclient, xdist' 2>/dev/null || install test
        cd "$root" && exec "$python" -m pytest -n 2 --dist loadfile "$@" ;;
    lint)
        cd "$root"
        "$python" -c 'import codespell_lib, mypy, ruff' 2>/dev/null || install test
        "$python" -m ruff check
        "$python" -m ruff format --check
        "$python" -m mypy
        exec "$python" -m codespell_lib ;;
    docs)
        "$python" -c 'import material, mkdocstrings_handlers.python' 2>/dev/null || install docs
        cd "$root" && NO_MKDOCS_2_WARNING=1 exec "$python" -m mkdocs build "$@" ;;
    *) exec "$python" "$css" "$command" "$@" ;; # a data set's name, too: css voc 15-1 is css run voc 15-1
esac
