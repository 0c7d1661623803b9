#!/usr/bin/env bash
# Packs what scripts/gpu_check.sh needs on a machine with a GPU and torch, but without compilers and packages.
#
#   bash scripts/gpu_bundle.sh BUILD FILE.tar.xz      # BUILD: configured with MORAINE_CUDA, programs built
#
# There: tar xJf FILE.tar.xz && MORAINE_TORCH_LIB=<site-packages/torch/lib> bash moraine-gpu/scripts/gpu_check.sh --build moraine-gpu/build
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -eq 2 ] || { sed -n '2,6p' scripts/gpu_bundle.sh; exit 2; }
build=$1 out=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/moraine-gpu
mkdir -p "$root/build/lib" "$root/scripts" "$root/tests/golden"
programs=(moraine test_nn test_train test_device test_distributed device_ceilings)
for program in "${programs[@]}"; do
  [ -x "$build/$program" ] || { echo "gpu_bundle: error: $build/$program is missing: cmake --build $build --target ${programs[*]}" >&2; exit 1; }
  strip -o "$root/build/$program" "$build/$program"
  # Libraries that are not torch's, CUDA's or the system's own.
  ldd "$build/$program" | awk '$3 ~ /^\// {print $3}' | grep -vE '/(torch|nvidia)/|/lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so' |
    xargs -r -I{} cp -Ln {} "$root/build/lib/"
done
cp scripts/gpu_check.sh scripts/gpu_check.py "$root/scripts/"
cp -r tests/golden/families.json tests/golden/device_budgets.json tests/golden/variants.json tests/golden/*-fp32 tests/golden/*-bf16 tests/golden/*-fp8 \
  tests/golden/*-fp8fp4 tests/golden/*-dense "$root/tests/golden/"
tar -C "$folder" -cJf "$out" moraine-gpu
echo "$out: $(du -h "$out" | cut -f1)"
