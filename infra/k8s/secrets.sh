#!/usr/bin/env bash
# Makes the secret for the manifests; run it only once. For an external database give two URLs.
#
#   bash infra/k8s/secrets.sh [STORE_URL MLFLOW_URL] | kubectl apply -n evenload -f -
set -euo pipefail
secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
password=$(secret)
server="postgresql+psycopg://evenload:$password@postgres"
cat <<END
apiVersion: v1
kind: Secret
metadata: {name: evenload}
immutable: true
stringData:
  postgres-password: "$password"
  ray-token: "$(secret)"
  store-url: "${1:-$server/evenload}"
  mlflow-url: "${2:-$server/mlflow}"
END
