#!/usr/bin/env bash
# Everything that is to be known of a GPU, in one command of at most ten minutes; the last line is "N passed, N failed".
#
#   bash scripts/gpu_check.sh [--build DIR] [--out DIR]     # DIR: a build with MORAINE_CUDA, or what gpu_bundle.sh made (default build-cuda)
#   bash scripts/gpu_check.sh --dry-run                     # every step on the CPU with tiny shapes, from build/, after
#                                                           # cmake --build build --target device_ceilings
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python3 scripts/gpu_check.py "$@"
