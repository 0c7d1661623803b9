#!/usr/bin/env bash
# Makes a machine ready and builds moraine: Debian packages, torch, then the release preset into build/.
# What is there already is left alone, so running it again costs a second.
#
#   bash scripts/setup.sh [build target ...]        # without a target: the program and all tests
#
#   MORAINE_TORCH_DIR    an existing torch to use instead of .venv: a libtorch folder, or the `torch` folder of an
#                        installed Python package. CMAKE_PREFIX_PATH is searched for one too.
#   MORAINE_REFERENCE=1  also makes .venv-reference with transformers and peft, which the Python tests compare with.
#   CMAKE_BUILD_PARALLEL_LEVEL   compile jobs; by default as many as cores and free memory allow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly torch_version=2.13.0
readonly reference_packages=(transformers==5.18.0 peft==0.21.0 safetensors accelerate tokenizers)

say() { printf 'setup: %s\n' "$1"; }
die() { printf 'setup: error: %s\n' "$1" >&2; exit "${2:-1}"; }

# ---- Debian packages ----

# Tools count as present wherever they come from; libraries are looked up in dpkg's database.
missing_packages() {
  command -v g++ >/dev/null || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  command -v ccache >/dev/null || echo ccache
  command -v pkg-config >/dev/null || echo pkg-config
  command -v protoc >/dev/null || echo protobuf-compiler
  python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
  local libraries=(libyaml-cpp-dev nlohmann-json3-dev libcli11-dev libfmt-dev libgtest-dev libgmock-dev
                   libpcre2-dev libutf8proc-dev libxxhash-dev zlib1g-dev libprotobuf-dev libbenchmark-dev)
  local installed library
  # dpkg-query fails when it does not know one of the names: that one is missing.
  installed=$(dpkg-query -W -f '${Status} ${Package}\n' "${libraries[@]}" 2>/dev/null || true)
  for library in "${libraries[@]}"; do
    [[ $'\n'"$installed"$'\n' == *$'\n'"install ok installed $library"$'\n'* ]] || echo "$library"
  done
}

install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "not a Debian-like system: the libraries that the build needs are listed in scripts/setup.sh (missing_packages)"
    return
  fi
  local missing=() root=()
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  if (($(id -u) != 0)); then
    sudo -n true 2>/dev/null || die "packages are missing and this user may not install them; as root: apt-get install ${missing[*]}" 2
    root=(sudo -n)
  fi
  say "installing ${missing[*]}"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null || say "apt-get update failed, going on with the lists that are there"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" </dev/null >/dev/null ||
    die "apt-get could not install: ${missing[*]}"
}

# ---- Python environments ----

has_package() { compgen -G "$1/lib/python3*/site-packages/$2.dist-info/RECORD" >/dev/null; }  # RECORD: pip writes it last
pip_in() { "$1/bin/python" -m pip --disable-pip-version-check --no-input "${@:2}" </dev/null; }
# Python compiles a module when it is first imported; most of torch's never are.
pip_install() { pip_in "$1" install -qq --no-compile "${@:2}"; }

make_venv() {
  [[ -x $1/bin/python ]] && "$1/bin/python" -m pip --version >/dev/null 2>&1 && return
  python3 -m venv --clear "$1" || die "python3 -m venv $1 failed"
}

# The CPU build of torch. It is named +cpu where pip's index has both builds; elsewhere the plain name is taken unless it
# would bring CUDA along, which the build here has no use for and cannot link without CUDA's own development files.
install_torch() {
  has_package "$1" "torch-$torch_version*" && return
  make_venv "$1"
  say "installing torch $torch_version (CPU) into $1"
  pip_install "$1" "torch==$torch_version+cpu" numpy 2>/dev/null && return
  local resolved
  resolved=$(pip_in "$1" install -qq --dry-run --report - "torch==$torch_version" 2>&1) ||
    die "pip cannot install torch $torch_version: $(tail -n 1 <<<"$resolved") (an existing torch can be used: MORAINE_TORCH_DIR=DIR)"
  if grep -qE '"name": "(nvidia|cuda)' <<<"$resolved"; then
    die "pip's index has only the CUDA build of torch $torch_version, gigabytes that are not needed here: set PIP_EXTRA_INDEX_URL to the index of CPU wheels that torch's install page names, or MORAINE_TORCH_DIR to an existing CPU torch or libtorch" 2
  fi
  pip_install "$1" "torch==$torch_version" numpy || die "pip could not install torch $torch_version"
}

# The reference packages use the torch of .venv, if it is there: a .pth file puts its folder on their path.
install_reference() {
  local venv=.venv-reference package packages
  if has_package .venv "torch-$torch_version*"; then
    make_venv "$venv"
    packages=$(compgen -G "$PWD/.venv/lib/python3*/site-packages")
    has_package "$venv" "torch-$torch_version*" || echo "$packages" >"$venv/${packages#"$PWD/.venv/"}/torch_of_venv.pth"
  else
    install_torch "$venv"
  fi
  for package in "${reference_packages[@]}"; do
    [[ $package == *==* ]] || package+="-*"
    if ! has_package "$venv" "${package/==/-}"; then
      say "installing ${reference_packages[*]} into $venv"
      pip_install "$venv" "${reference_packages[@]}" || die "pip could not install the reference packages"
      return
    fi
  done
}

# ---- torch, configure, build ----

is_torch() { [[ -e $1/share/cmake/Torch/TorchConfig.cmake ]]; }
cached_torch() { sed -n 's|^Torch_DIR:[A-Z]*=\(.*\)/share/cmake/Torch$|\1|p' build/CMakeCache.txt 2>/dev/null || true; }

# Sets torch_dir: what the environment names, else what build/ is configured with, else the one in .venv.
find_torch() {
  local prefix prefixes=() found
  if [[ -n ${MORAINE_TORCH_DIR:-} ]]; then
    is_torch "$MORAINE_TORCH_DIR" || die "MORAINE_TORCH_DIR=$MORAINE_TORCH_DIR holds no share/cmake/Torch (name a libtorch folder or site-packages/torch)" 2
    torch_dir=$(realpath "$MORAINE_TORCH_DIR")
    return
  fi
  IFS=':;' read -r -a prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    prefix=${prefix%/share/cmake*}
    if is_torch "$prefix"; then torch_dir=$(realpath "$prefix"); return; fi
  done
  found=$(cached_torch)
  if [[ -n $found && $found != "$PWD/.venv/"* ]] && is_torch "$found"; then torch_dir=$found; return; fi
  install_torch .venv
  torch_dir=$(compgen -G "$PWD/.venv/lib/python3*/site-packages/torch" | head -n 1)
}

build() {
  local cached log jobs memory_jobs
  cached=$(cached_torch)
  if [[ ! -e build/build.ninja || $(realpath -m "${cached:-/}") != $(realpath "$torch_dir") ]]; then
    say "configuring build/ with torch in $torch_dir"
    log=$(cmake --fresh --preset release -DMORAINE_TORCH_DIR="$torch_dir" 2>&1) ||
      { printf '%s\n' "$log" >&2; die "cmake could not configure build/ (above)"; }
  fi
  jobs=$(nproc)
  memory_jobs=$(awk '/^MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo 2>/dev/null || true)  # a compile takes up to 1.5 GB
  ((${memory_jobs:-0} >= 1 && memory_jobs < jobs)) && jobs=$memory_jobs
  cmake --build build -j "${CMAKE_BUILD_PARALLEL_LEVEL:-$jobs}" ${1:+--target "$@"} || die "the build failed (above)"
}

install_packages
find_torch
reference=
if [[ ${MORAINE_REFERENCE:-0} == 1 ]]; then
  install_reference &  # waits for the network, which the build does not
  reference=$!
fi
build "$@"
[[ -z $reference ]] || wait "$reference"
