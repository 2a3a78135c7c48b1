#!/usr/bin/env bash
# Writes .env with new secrets for docker-compose, which only you can read. Existing secrets stay;
# secrets that a newer evenload needs are added.
set -euo pipefail
cd "$(dirname "$0")/.."

umask 077
touch .env
chmod 600 .env
# A last line without a newline would swallow the first secret.
[ -z "$(tail -c 1 .env)" ] || echo >>.env
for name in POSTGRES_PASSWORD POSTGRES_OWNER_PASSWORD POSTGRES_WRITER_PASSWORD \
  POSTGRES_READER_PASSWORD POSTGRES_MLFLOW_PASSWORD RAY_AUTH_TOKEN GRAFANA_PASSWORD; do
  grep -q "^$name=" .env && continue
  echo "$name=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" >>.env
  echo "wrote $name to .env" >&2
done
