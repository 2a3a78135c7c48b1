#!/usr/bin/env bash
# From a fresh clone to a finished sweep: makes .venv, installs, trains, then serves the dashboard
# and MLflow. Arguments go to `evenload quickstart`; --no-serve ends after the figures.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
bash "$here/infra/install.sh"
exec "$here/.venv/bin/evenload" quickstart "$@"
