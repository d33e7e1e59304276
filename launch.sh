#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv when it is missing or stale, then runs a command in it.
set -eu

usage() {
  cat <<'END'
Usage: ./launch.sh [--help] COMMAND [ARGUMENT...]

Runs COMMAND in the project's environment, which is made first if needed.
A COMMAND ending in .py is looked for here, then beside launch.sh, and run
under the environment's Python; the working directory stays as it is.

  ./launch.sh train.py --config=configs/lm.py:sample
  ./launch.sh python -m collab.convert --help
  ./launch.sh pytest

COLLAB_PYTHON  the Python (>= 3.11) to make the environment with
COLLAB_EXTRAS  what to install besides: cuda, tpu, prepare, parity or several,
               comma-separated; kept until it is set to something else
END
}

say() { printf 'launch.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Sets python and version. An environment stays with the Python it was made
# with: a node that has another python3 must not remake it under a running job.
find_python() {
  local line candidate found='' made_with=''
  if [[ -f $stamp ]]; then read -r made_with <"$stamp" || true; fi
  local candidates=(python3 python3.13 python3.12 python3.11)
  if [[ -n $made_with ]]; then candidates=("$made_with" "${candidates[@]}"); fi
  if [[ -n ${COLLAB_PYTHON:-} ]]; then candidates=("$COLLAB_PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    # Run it: a name on PATH may be a shim with nothing behind it.
    line=$("$candidate" -ESc 'import os, sys
base = getattr(sys, "_base_executable", sys.executable)  # not a venv of others
print("%d.%d.%d" % sys.version_info[:3] + " " + os.path.realpath(base))
' 2>/dev/null) || continue
    version=${line%% *} python=${line#* }
    case $version in
      [12].* | 3.[0-9].* | 3.10.*) found="${found:-$version at $python}" ;;
      *) return ;;
    esac
  done
  die "collab needs Python >= 3.11; found ${found:-none that runs}" \
    "(tried ${candidates[*]})"
}

# Sets wanted: what a good environment carries as its stamp.
is_fresh() {
  find_python
  constraints=constraints-3.12.txt
  case $version in 3.11.*) constraints=constraints-3.11.txt ;; esac
  extras=$(if [[ -f $stamp ]]; then sed -n 3p "$stamp"; fi)
  if [[ -n ${COLLAB_EXTRAS+set} ]]; then extras=$COLLAB_EXTRAS; fi
  wanted=$(printf '%s\n' "$python" "$version" "$extras" "$root" &&
    cksum <"$root/pyproject.toml" && cksum <"$root/$constraints")
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]]
}

install() {
  "$python" -m venv "$venv" && cd "$root" &&
    "$venv/bin/python" -m pip install --no-input --progress-bar off \
      --disable-pip-version-check -c "$constraints" \
      -e ".[test${extras:+,$extras}]"
}

make_environment() {
  local log=$venv/install.log pattern reason=''
  say "making .venv with Python $version${extras:+ and $extras}:" \
    "about a minute, only this once"
  # The stamp goes first and comes last, so half an environment never has one.
  rm -f "$stamp"
  rm -rf "$venv"
  mkdir "$venv"
  local unknown='does not provide the extra'  # to pip no more than a warning
  if ! (install) >"$log" 2>&1 </dev/null || grep -q "$unknown" "$log"; then
    for pattern in "$unknown" 'ERROR:' 'apt install' '[Ee]rror' '[^ ]'; do
      reason=$(grep -e "$pattern" "$log" | tail -n 1 | sed 's/^ *//')
      if [[ -n $reason ]]; then break; fi
    done
    die "no environment: ${reason:-pip failed} (the whole log: $log)"
  fi
  printf '%s\n' "$wanted" >"$stamp.new"
  mv "$stamp.new" "$stamp"
  say ".venv is ready after $SECONDS s"
}

case ${1-} in
  '') usage >&2; exit 1 ;;
  --help | -h) usage; exit 0 ;;
  -*) die "unknown option $1 (known: --help; options of COMMAND follow it)" ;;
esac

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$root/.venv
stamp=$venv/collab-stamp
if [[ ! -f $root/pyproject.toml ]]; then  # sbatch, for one, runs a copy
  die "$root has no pyproject.toml: run launch.sh where it lies"
fi

if [[ $1 == *.py ]]; then
  script=$1
  if [[ ! -e $script && $script != /* ]]; then script=$root/$script; fi
  if [[ ! -e $script ]]; then die "no $1 in $PWD or $root"; fi
  shift
  set -- python "$script" "$@"
fi

if ! is_fresh; then
  if command -v flock >/dev/null; then
    exec 9>"$root/.venv.lock"
    flock -n 9 || { say 'waiting for the launch that makes .venv'; flock 9; }
  fi
  if ! is_fresh; then make_environment; fi  # unless the other one just did
  exec 9>&-
fi

# On a CPU, XLA allocates the memory of a step anew each time. With huge pages
# the kernel hands it out in 512 times fewer pieces (glibc >= 2.35; else no-op).
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}

unset PYTHONHOME
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
exec "$@"
