# SPDX-License-Identifier: Apache-2.0
"""Writes the job files with which Slurm or SkyPilot starts parts of a sweep."""

import posixpath
import shlex

import yaml

# At SIGTERM the runs save and end. Slurm sends USR1 ahead of the time limit;
# then the part is queued again.
SLURM = r"""#!/bin/sh
#SBATCH --job-name={name}
#SBATCH --array={parts}
#SBATCH --cpus-per-task=1
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:USR1@120
stop() {{ kill -TERM $!; wait $!; }}
trap 'stop; exec scontrol requeue "$SLURM_JOB_ID"' USR1
trap 'stop; exit 143' TERM
./launch.sh python -m experiments.sweep {words} \
  --jobs=1 --part="$SLURM_ARRAY_TASK_ID" &
wait $!
"""
SKY = """# Start it, saved as FILE, with the hardware that is wanted:
#   for part in {parts}; do
#     sky jobs launch --yes --detach-run --gpus=A100:1 --use-spot \\
#       --env PART=$part FILE
#   done
# A job that is preempted goes on elsewhere. When all are done, copy {bucket}
# into your folder of the workdirs; the sweep with --collect makes the rows.
"""


def slurm(name: str, parts: list[int], words: list[str]) -> str:
  """A job array, for sbatch; `words` are the arguments of the sweep."""
  listed = ','.join(map(str, parts))
  return SLURM.format(name=name, parts=listed, words=shlex.join(words))


def sky(
  name: str,
  parts: list[int],
  words: list[str],
  bucket: str,
  runs: str,
  data: str | None,
) -> str:
  """A managed job of SkyPilot, which makes the part that PART says.

  Args:
    name: of the study.
    parts: those that are to be made.
    words: arguments of the sweep.
    bucket: URL of the one that is mounted as the folder of the workdirs.
    runs: that folder.
    data: folder of the data sets, which is copied to the machine, or None.
  """
  # Rows of many machines in one file of a bucket would overwrite each other.
  ours = '--jobs=1', f'--runs={runs}', '--results=experiments/results'
  words = [*words, *ours]
  command = f'./launch.sh python -m experiments.sweep {shlex.join(words)}'
  mounts = {_there(runs): dict(source=bucket, mode='MOUNT_CACHED')}
  job = dict(
    name=name,
    workdir='.',
    envs=dict(PART=None, COLLAB_EXTRAS='cuda'),
    file_mounts=mounts | ({_there(data): data} if data else {}),
    setup='./launch.sh true',
    run=f'{command} --part="$PART"',
  )
  listed = ' '.join(map(str, parts))
  text = yaml.safe_dump(job, sort_keys=False, width=float('inf'))
  return SKY.format(parts=listed, bucket=bucket) + text


def _there(path):
  """A path of ours on a machine of SkyPilot."""
  return posixpath.join('~/sky_workdir', path)
