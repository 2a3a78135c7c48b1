#!/usr/bin/env bash
# Makes the secret for the manifests; run it only once. For an external database give four URLs;
# infra/postgres/databases.sql makes their roles.
#
#   bash infra/k8s/secrets.sh [OWNER_URL WRITER_URL READER_URL MLFLOW_URL] | kubectl apply -n evenload -f -
set -euo pipefail
secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
owner=$(secret) writer=$(secret) reader=$(secret) mlflow=$(secret)
url() { echo "postgresql+psycopg://$1:$2@postgres/$3"; }
cat <<END
apiVersion: v1
kind: Secret
metadata: {name: evenload}
immutable: true
stringData:
  postgres-password: "$(secret)"
  owner-password: "$owner"
  writer-password: "$writer"
  reader-password: "$reader"
  mlflow-password: "$mlflow"
  ray-token: "$(secret)"
  owner-url: "${1:-$(url evenload_owner "$owner" evenload)}"
  writer-url: "${2:-$(url evenload_writer "$writer" evenload)}"
  reader-url: "${3:-$(url evenload_reader "$reader" evenload)}"
  mlflow-url: "${4:-$(url mlflow "$mlflow" mlflow)}"
END
