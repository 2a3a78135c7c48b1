#!/usr/bin/env bash
# Writes .env with new secrets for docker-compose, which only you can read. Existing secrets stay;
# secrets that a newer evenload needs are added.
set -euo pipefail
cd "$(dirname "$0")/.."

umask 077
touch .env
for name in POSTGRES_PASSWORD RAY_AUTH_TOKEN GRAFANA_PASSWORD; do
  grep -q "^$name=" .env && continue
  echo "$name=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" >>.env
  echo "wrote $name to .env" >&2
done
