#!/usr/bin/env bash
# Writes .env with fresh secrets for docker-compose, readable by you alone. An existing one stays.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -e .env ] && { echo ".env is there already" >&2; exit 0; }

secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
cat >.env <<END
POSTGRES_PASSWORD=$(secret)
RAY_AUTH_TOKEN=$(secret)
END
echo "wrote .env" >&2
