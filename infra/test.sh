#!/usr/bin/env bash
# Runs all checks on a fresh clone: format, lint, types, import contracts and tests.
# Arguments go to pytest, e.g.  bash infra/test.sh -k store
# bash infra/test.sh --slow     runs only long tests: the whole fault suite, 10,000 trials.
# bash infra/test.sh --integrations  attaches to the trainers and MoE layers of other projects.
# bash infra/test.sh --compose  tests docker-compose.yml instead; it needs a Docker engine.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --integrations ]; then
  shift
  bash infra/install.sh integrations
  exec env OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-integrations/bin/python -m pytest -v -m integration \
    tests/integrations tests/workers/attach/test_families.py "$@"
fi
bash infra/install.sh dev
if [ "${1:-}" = --compose ]; then
  shift
  exec .venv/bin/python -m pytest -v -m compose tests/compose "$@"
fi
if [ "${1:-}" = --slow ]; then
  shift
  exec env OMP_NUM_THREADS=1 .venv/bin/python -m pytest -v -m slow "$@"
fi

step() { printf '\n== %s\n' "$1"; shift; "$@"; }
step "format" .venv/bin/ruff format --check .
step "lint" .venv/bin/ruff check .
step "import contracts" .venv/bin/lint-imports --no-cache

# mypy uses one core for more than a minute, so it runs beside the tests.
types=$(mktemp)
.venv/bin/mypy >"$types" 2>&1 &
mypy=$!
trap 'kill "$mypy" 2>/dev/null || true; rm -f "$types"' EXIT
code=0
step "tests" env OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@" || code=$?
wait "$mypy" || code=$?
step "types" cat "$types"
exit "$code"
