#!/usr/bin/env bash
# What takes too long for every run of the tests: whole matrices of meshes, kills, damage and shapes. Some two hours on two cores.
#
#   bash scripts/test_full.sh [PROGRAM]        # build/moraine by default; the last line says how many of the parts failed
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly program=${1:-build/moraine}
export OMP_NUM_THREADS=1
failed=0
part() {
  printf '== %s\n' "$*"
  python3 "tests/ranks/$1_test.py" "$program" "${@:2}" || failed=$((failed + 1))
}

for golden in tests/golden/*-fp32 tests/golden/*-bf16; do
  part exactness --golden "$(basename "$golden")" --full
done
part resume --full
part plan_memory --all
for golden in tests/golden/*-fp32; do
  part mesh_equality --golden "$(basename "$golden")"
  part score_generate --golden "$(basename "$golden")"
done
printf '== gpu_check --dry-run\n'
cmake --build "$(dirname "$program")" --target device_ceilings >/dev/null && bash scripts/gpu_check.sh --dry-run --build "$(dirname "$program")" ||
  failed=$((failed + 1))
printf '%s parts failed\n' "$failed"
((failed == 0))
