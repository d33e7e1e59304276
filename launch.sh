#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv when it is missing or stale, then runs a command in it.
set -eu

usage() {
  cat <<'END'
Usage: ./launch.sh [OPTION...] COMMAND [ARGUMENT...]

Runs COMMAND in the project's environment, which is made first if needed.
A COMMAND ending in .py is looked for beside launch.sh, then here, and run
under the environment's Python; the working directory stays as it is, and no
module is imported from it.

  ./launch.sh train.py --config=configs/lm.py:sample
  ./launch.sh python -m collab.convert --help
  ./launch.sh pytest

Several processes, which train.py makes one run of. They need one workdir that
all of them see; when one is lost all end, and the same command goes on.

  --local=N          N processes here; of GPUs each has one
  --slurm [--X=Y...] a Slurm job; what follows up to COMMAND are options of
                     sbatch, or in an allocation of srun; of GPUs a task each.
                     Two minutes before the time limit (--signal=B:USR1@120)
                     the run saves and ends, and the job is queued again
  --tpu=NAME [--X=Y...]  all hosts of a TPU pod, in the copy of this folder in
                     their home directories; options of gcloud may follow. All
                     COLLAB_*, JAX_*, XLA_FLAGS and LIBTPU_INIT_ARGS go along.
                     train.py needs COLLAB_RUNS or a --workdir that is the same
                     on all hosts
  --dry-run          print what would run, and run nothing
  --help             print this

  ./launch.sh --local=4 train.py --config=configs/lm.py:sample
  ./launch.sh --slurm --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 \
      --time=24:00:00 train.py --config=configs/lm.py --config.data.path=DIR

A pod of spot TPUs, from the queue to the run:

  gcloud compute tpus queued-resources create NAME --node-id=NAME --spot \
      --zone=ZONE --accelerator-type=TYPE --runtime-version=VERSION
  gcloud compute tpus queued-resources describe NAME --zone=ZONE   # ACTIVE?
  gcloud compute tpus tpu-vm scp --recurse --worker=all --zone=ZONE "$PWD" NAME:
  gcloud compute tpus tpu-vm ssh NAME --worker=all --zone=ZONE \
      --command='python3 -m pip install --user uv'   # if its Python is 3.10
  COLLAB_RUNS=FOLDER ./launch.sh --tpu=NAME --zone=ZONE train.py --config=...

Once preempted it is SUSPENDED. This deletes it; then all of that again, and
the run goes on:

  gcloud compute tpus queued-resources delete NAME --force --quiet --zone=ZONE

COLLAB_PYTHON      the Python (>= 3.11) to make the environment with; default
                   the first of python3, python3.13, python3.12, python3.11 and
                   what uv, if it is installed, finds or fetches
COLLAB_EXTRAS      what to install besides: cuda, tpu, prepare, parity or
                   several, comma-separated; kept until set to something else
COLLAB_RUNS        where train.py makes its default workdir, in place of runs
COLLAB_LOST_AFTER  seconds of silence after which a process is lost (30)
END
}

say() { printf 'launch.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Whether a command is a Python that is new enough; sets python and version.
is_python() {
  local line
  # Run it: a name on PATH may be a shim with nothing behind it.
  line=$("$@" -ISc 'import os, sys
base = getattr(sys, "_base_executable", sys.executable)  # not a venv of others
print("%d.%d.%d" % sys.version_info[:3] + " " + os.path.realpath(base))
') || return
  version=${line%% *} python=${line#* }
  case $version in
    [12].* | 3.[0-9].* | 3.10.*)
      found="${found:-$version at $python}"
      return 1 ;;
  esac
}

# Sets python and version. An environment stays with the Python it was made
# with: a node that has another python3 must not remake it under a running job.
find_python() {
  local candidate uv found='' made_with='' hint=''
  if [[ -f $stamp ]]; then read -r made_with <"$stamp" || true; fi
  local candidates=(python3 python3.13 python3.12 python3.11)
  if [[ -n $made_with ]]; then candidates=("$made_with" "${candidates[@]}"); fi
  if [[ -n ${COLLAB_PYTHON:-} ]]; then candidates=("$COLLAB_PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if is_python "$candidate" 2>/dev/null; then return; fi
  done
  if [[ -z ${COLLAB_PYTHON:-} ]]; then
    # Images of TPU hosts may have nothing newer than 3.10, and a command that
    # comes by ssh has no ~/.local/bin on its PATH.
    if uv=$(PATH=$PATH:${HOME-}/.local/bin; command -v uv); then
      candidates+=(uv)
      if is_python "$uv" run --quiet --no-project --python=3.12 python; then
        return
      fi
    else
      hint='; uv would fetch one: python3 -m pip install --user uv'
    fi
  fi
  die "collab needs Python >= 3.11; found ${found:-none that runs}" \
    "(tried ${candidates[*]}$hint)"
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
  cd "$root" && "$python" -m venv "$venv" &&
    "$venv/bin/python" -m pip install --no-input --progress-bar off \
      --disable-pip-version-check -c "$constraints" \
      -e ".[test${extras:+,$extras}]"
}

make_environment() {
  local log=$venv/install.log pattern reason=''
  say "making .venv with Python $version ($python)${extras:+ and $extras}:" \
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

# Sets line to words that a POSIX sh reads as the arguments: sbatch and the hosts
# of a pod need not have bash, and only bash understands all that %q writes.
quote() {
  local LC_ALL=C word mark="'" escaped="'\\''"
  line=''
  for word; do
    if [[ ! $word =~ ^[a-zA-Z0-9_@%+=:,./-]+$ ]]; then
      word="'${word//$mark/$escaped}'"
    fi
    line+="${line:+ }$word"
  done
}

# Runs a command in place of this shell, or prints it.
run() {
  if [[ -z $dry ]]; then exec "$@"; fi
  quote "$@"
  printf '%s\n' "$line"
}

# A port of this host that nobody listens at.
free_port() {
  local port
  while port=$((49152 + RANDOM % 16384)); (: <"/dev/tcp/localhost/$port"); do
    :
  done 2>/dev/null
  printf '%s\n' "$port"
}

# Runs a command as n processes. When one fails the others are told to end, then
# made to; the exit code is its.
run_local() {
  local i code how status=0 pids=() limit=0
  local coordinator=${JAX_COORDINATOR_ADDRESS:-localhost:$(free_port)}
  exec 8>&2 2>/dev/null  # bash has words of its own on jobs that are killed
  for ((i = 0; i < n; i++)); do
    set -- env "JAX_COORDINATOR_ADDRESS=$coordinator" "JAX_NUM_PROCESSES=$n" \
      "JAX_PROCESS_ID=$i" "JAX_LOCAL_DEVICE_IDS=$i" "${command[@]}"
    if [[ $dry ]]; then run "$@"; continue; fi
    "$@" 2>&8 8>&- &
    pids[i]=$!
  done
  trap 'kill -TERM "${pids[@]}" || true' INT TERM HUP
  while ((${#pids[@]})); do
    for i in "${!pids[@]}"; do
      if kill -0 "${pids[i]}"; then continue; fi
      code=0; wait "${pids[i]}" || code=$?
      unset "pids[i]"
      if ((code == 0 || status)); then continue; fi
      status=$code how="ended with $code"
      if ((code > 128)); then how="was killed by SIG$(kill -l "$code")"; fi
      say "process $i of $n $how; the others end" 2>&8
      kill -TERM ${pids[@]+"${pids[@]}"} || true
      limit=$((SECONDS + ${COLLAB_LOST_AFTER:-30} + 10))
    done
    if ((status && SECONDS > limit && ${#pids[@]})); then
      kill -KILL "${pids[@]}" || true
    fi
    sleep 0.1
  done
  exit "$status"
}

# What a batch shell does when --signal tells it of the coming time limit: the
# tasks save, and if all end well the job begins anew. scancel's signal goes to
# the tasks alone; at SIGTERM srun would soon kill them.
requeue='scancel --signal=TERM "$SLURM_JOB_ID"; '
requeue+='wait $! && exec scontrol requeue "$SLURM_JOB_ID"'

# Within an allocation the job starts here and now, else it is submitted.
run_slurm() {
  if [[ ${SLURM_JOB_ID-} ]]; then
    run srun --kill-on-bad-exit=1 ${options[@]+"${options[@]}"} \
      "$root/launch.sh" "${command[@]}"
  else
    quote srun --kill-on-bad-exit=1 "$root/launch.sh" "${command[@]}"
    run sbatch --requeue --open-mode=append --signal=B:USR1@120 \
      ${options[@]+"${options[@]}"} \
      --wrap="trap '$requeue' USR1; $line & wait \$!"
  fi
}

# Ends where train.py would have a workdir of its own on each host of a pod.
need_one_workdir() {
  local word before='' workdir=${COLLAB_RUNS-}
  for word; do
    if [[ $before == --workdir ]]; then workdir=$word; fi
    if [[ $word == --workdir=* ]]; then workdir=${word#*=}; fi
    before=$word
  done
  case ${1##*/}:$workdir in
    train.py:/* | train.py:*://*) return ;;
    train.py:*)
      die "--tpu: the workdir would be ${workdir:-runs/...} on each host;" \
        'expected COLLAB_RUNS or --workdir, a path from / or a URL that all see'
  esac
}

# On a TPU's hosts JAX finds out everything but the port, which says that the
# process is one of several.
run_tpu() {
  local folder name variables=()
  need_one_workdir "${command[@]}"
  : "${COLLAB_EXTRAS=tpu}" "${JAX_COORDINATOR_PORT=8476}"
  for name in "${!COLLAB_@}" "${!JAX_@}" XLA_FLAGS LIBTPU_INIT_ARGS; do
    if [[ ${!name+set} ]]; then variables+=("$name=${!name}"); fi
  done
  quote "./${root##*/}"
  folder=$line
  quote env "${variables[@]}" ./launch.sh "${command[@]}"
  run gcloud compute tpus tpu-vm ssh "$tpu" --worker=all \
    ${options[@]+"${options[@]}"} --command="cd $folder && $line"
}

where=here dry='' options=()
while [[ ${1-} == -* ]]; do
  case $where:$1 in
    *:--help | *:-h) usage; exit 0 ;;
    *:--dry-run) dry=yes ;;
    here:--local=*)
      where=local n=${1#*=}
      if [[ ! $n =~ ^[1-9][0-9]*$ ]]; then
        die "$1: expected a number of processes"
      fi ;;
    here:--slurm) where=slurm ;;
    here:--tpu=?*) where=tpu tpu=${1#*=} ;;
    slurm:--?* | tpu:--?*) options+=("$1") ;;
    slurm:* | tpu:*) die "$1: options for $where are --name=value here" ;;
    *)
      die "unknown option $1 (known: --local=N --slurm --tpu=NAME --dry-run" \
        '--help; options of COMMAND follow it)' ;;
  esac
  shift
done
if (($# == 0)); then usage >&2; exit 1; fi

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$root/.venv
stamp=$venv/collab-stamp
if [[ ! -f $root/pyproject.toml ]]; then  # sbatch, for one, runs a copy
  die "$root has no pyproject.toml: run launch.sh where it lies"
fi

# Modules come from the project and its environment alone: a folder of data that
# one works in may have a jax.py of its own.
unset PYTHONHOME
export PYTHONSAFEPATH=1 PYTHONPATH=$root

command=("$@")
if [[ $where == tpu ]]; then run_tpu; exit; fi
if [[ $1 == *.py ]]; then
  script=$1
  if [[ $script != /* && -e $root/$script ]]; then script=$root/$script; fi
  if [[ ! -e $script ]]; then die "no $1 in $root or $PWD"; fi
  shift
  command=(python "$script" "$@")
fi

if [[ -z $dry ]] && ! is_fresh; then
  if command -v flock >/dev/null; then
    exec 9>"$root/.venv.lock"
    flock -n 9 || { say 'waiting for the launch that makes .venv'; flock 9; }
  fi
  if ! is_fresh; then make_environment; fi  # unless the other one just did
  exec 9>&-
fi
if [[ $where == slurm ]]; then run_slurm; exit; fi

# On a CPU, XLA allocates the memory of a step anew each time. With huge pages
# the kernel hands it out in 512 times fewer pieces (glibc >= 2.35; else no-op).
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}

export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
if [[ $where == local ]]; then run_local; fi
run "${command[@]}"
