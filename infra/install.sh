#!/usr/bin/env bash
# Makes or updates .venv: the one place that decides between a CPU and a CUDA build of torch.
# uv installs, with the settings of pip; without uv, pip installs (infra/fast_pip.py).
#
#   bash infra/install.sh [dev]         "dev" adds what infra/test.sh needs
#   bash infra/install.sh integrations  .venv-integrations instead, with other projects' trainers
#                                       and MoE layers: infra/integrations.txt
#
# EVENLOAD_TORCH   auto (default: cuda where nvidia-smi answers), cpu, cuda
# PYTHON           the interpreter to build .venv with; 3.11 or 3.12
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
extras="workers,dashboard${1:+,$1}"
if [ "${1:-}" = integrations ]; then
  venv=.venv-integrations
  extras=hf
fi
torch_version=2.13.0

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "evenload needs Python 3.11 or 3.12 with venv; set PYTHON to one" >&2
  exit 1
}

torch_build() {
  local wanted=${EVENLOAD_TORCH:-auto}
  if [ "$wanted" = auto ]; then
    if nvidia-smi >/dev/null 2>&1; then wanted=cuda; else wanted=cpu; fi
  fi
  echo "$wanted"
}

# A CPU build has the local version +cpu where an index has one. The plain version runs on a CPU
# too, it only carries the CUDA libraries along.
install_torch() {
  if [ "$(torch_build)" = cpu ] && "${install[@]}" "torch==$torch_version+cpu" 2>/dev/null; then
    return
  fi
  "${install[@]}" "torch==$torch_version"
}

# torchtitan asks for an older datasets than TRL is tested with, and for loggers. Its MoE needs
# neither.
install_integrations() {
  "${install[@]}" --requirement infra/integrations.txt
  "${install[@]}" --no-deps torchtitan==0.3.0
}

stamp=$({ cat pyproject.toml infra/{constraints,hashes,integrations}.txt infra/install.sh infra/fast_pip.py; torch_build; pwd; } | sha256sum | cut -d' ' -f1)
if [ -f "$venv/stamp-$extras" ] && [ "$(cat "$venv/stamp-$extras")" = "$stamp" ]; then
  exit 0
fi

[ -x "$venv/bin/python" ] || "$(find_python)" -m venv "$venv"
install=("$venv/bin/python" infra/fast_pip.py --quiet --constraint infra/constraints.txt)
echo "installing evenload into $venv (torch: $(torch_build)) ..." >&2
install_torch
"${install[@]}" pip --editable ".[$extras]"
if [ "$venv" = .venv-integrations ]; then install_integrations; fi
echo "$stamp" >"$venv/stamp-$extras"
