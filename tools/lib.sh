# Shared by tools/test and tools/demo: installing what is missing, and building. Sourced, not run.
# shellcheck shell=bash

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

root_dir() { cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd; }

# Packages named in tools/packages.txt that are not installed, one a line.
missing_packages() {
  local name status
  while read -r name; do
    case "$name" in '' | '#'*) continue ;; esac
    status=$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null || true)
    [ "$status" = installed ] || echo "$name"
  done <"$1"
}

# Installs what is missing, as root or through sudo, and says what.
install_missing() {
  command -v dpkg-query >/dev/null || die "this machine has no dpkg; install the packages of tools/packages.txt by hand"
  local missing sudo=()
  mapfile -t missing < <(missing_packages "$(root_dir)/tools/packages.txt")
  [ "${#missing[@]}" -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "missing packages (${missing[*]}) and neither root nor sudo to install them"
    sudo=(sudo)
  fi
  echo "installing: ${missing[*]}"
  "${sudo[@]}" apt-get update -qq || die "apt-get update failed; the package registry may be out of reach"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >/dev/null || die "apt-get could not install: ${missing[*]}"
}

# build PRESET [TARGET…]: configures and builds; quiet unless it fails.
build() {
  local preset=$1 root log
  shift
  root=$(root_dir)
  log="$root/build/$preset.log"
  mkdir -p "$root/build"
  echo "building (preset $preset) …"
  if ! (cd "$root" && cmake --preset "$preset" && cmake --build --preset "$preset" ${1:+--target "$@"}) \
    >"$log" 2>&1; then
    grep -E 'error|Error|FAILED' "$log" | head -n 20 >&2
    die "the build failed; the whole log is $log"
  fi
}
