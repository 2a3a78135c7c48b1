#!/usr/bin/env bash
# The first hour on a GPU. It needs this source tree and a python3 with torch, Triton, numpy, pyarrow,
# pydantic-settings, ruamel.yaml, psutil, rich and typer; parts that need more say so.
#
#   bash infra/gpu_hour.sh RESULTS          runs parts for under ten minutes; again until it exits with 0
#   bash infra/gpu_hour.sh RESULTS steps    runs one part, again if it has run
#
# Exit code 3: parts are left, run the same command again. 1: a part failed twice; see its JSON.
set -euo pipefail
case "${1:---help}" in
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit ;;
  -*) echo "error: $1: the first argument is a folder for the results; see --help" >&2; exit 2 ;;
esac
folder=$(realpath -m "$1")
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD/infra/package:$PWD${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python3}" -m infra.benchmarks.gpu_hour "$folder" "${@:2}"
