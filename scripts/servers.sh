#!/usr/bin/env bash
# Fetches the Python files of vLLM and SGLang and holds src/adapter/server_rules to them (tests/export/server_rules_test.py), and what is
# exported to where vLLM's code puts it (server_tensors_test.py, which needs the torch of .venv-reference).
#
#   bash scripts/servers.sh [vllm=VERSION] [sglang=VERSION] [--write]     # without: the versions that the rules were read in
#
# The wheels (vLLM's has some 320 MiB) are downloaded by pip without what they depend on, and only their *.py kept, in .servers/; nothing of
# them is installed or run as a program. --write stores digests anew, once the rules behind changed ones were read again. Set MORAINE_PROGRAM
# to a program other than build/moraine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

declare -A versions=([vllm]=0.33.0 [sglang]=0.5.23)
arguments=()
for argument in "$@"; do
  case $argument in
    vllm=* | sglang=*) versions[${argument%%=*}]=${argument#*=} ;;
    --write) arguments+=(--write) ;;
    *) printf 'servers: error: unknown argument %s (vllm=VERSION, sglang=VERSION, --write)\n' "$argument" >&2; exit 2 ;;
  esac
done

for server in vllm sglang; do
  version=${versions[$server]} folder=.servers/$server
  [[ $(cat "$folder.version" 2>/dev/null) == "$version" ]] && continue
  download=$(mktemp -d)
  trap 'rm -rf "$download"' EXIT
  printf 'servers: fetching %s %s\n' "$server" "$version"
  python3 -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: --python-version 3.11 -d "$download" "$server==$version"
  rm -rf "$folder"
  mkdir -p "$folder"
  python3 - "$download"/*.whl "$folder" <<'PYTHON'
import sys
import zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.endswith(".py")])
PYTHON
  rm -rf "$download"
  printf '%s\n' "$version" >"$folder.version"
done
export MORAINE_VLLM=.servers/vllm MORAINE_SGLANG=.servers/sglang
failed=0
python3 tests/export/server_rules_test.py "${MORAINE_PROGRAM:-build/moraine}" "${arguments[@]}" || failed=1
python3 tests/export/server_tensors_test.py "${MORAINE_PROGRAM:-build/moraine}" || [[ $? == 77 ]] || failed=1
exit $failed
