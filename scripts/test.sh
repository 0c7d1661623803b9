#!/usr/bin/env bash
# Sets up, builds everything and runs all tests; the last line is ctest's.
#
#   bash scripts/test.sh [ctest option ...]         # e.g. -R safetensors
#
# MORAINE_REFERENCE=1 also installs transformers and peft, for the tests that compare with them (else those are skipped).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
# One test more than there are cores: many wait for ranks to start, to end or to be found dead.
exec ctest --preset release -j "${CTEST_PARALLEL_LEVEL:-$(($(nproc) + 1))}" "$@"
