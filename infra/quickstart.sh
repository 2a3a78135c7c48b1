#!/usr/bin/env bash
# Installs a fresh clone into .venv, trains a small sweep, then serves the dashboard and MLflow.
# Arguments go to `evenload quickstart`; --no-serve ends after the figures.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
bash "$here/infra/install.sh"
exec "$here/.venv/bin/evenload" quickstart "$@"
