# SPDX-License-Identifier: Apache-2.0
r"""GLUE with MiniLM: fine-tuned, converted, fine-tuned again by one recipe.

Needs DIR/glue with SST-2, MRPC, RTE and STS-B, and the checkpoint
all-MiniLM-L6-v2 as a workdir:

  python -m collab.convert MODEL_DIR runs/minilm

The others start from `once`. `original` is fine-tuned again without conversion,
so that all that is compared had the same budget. Each fine-tuning is one epoch;
of SST-2 it uses 4,992 of the 67,349 training rows. Rows are so short that 2 to
22 % of the training rows are truncated.
"""

from experiments.study import Arm

# {task: (row length, steps)}.
TASKS = {
  'sst2': (32, 156),
  'mrpc': (72, 127),
  'rte': (96, 78),
  'stsb': (48, 180),
}
AWARE = '--calibration=train'
CONVERSIONS = {
  'original': ('--attention=mha',),
  'collab-192-plain': ('--attention=collab', '--shared_dim=192'),
  'collab-192-aware': ('--attention=collab', '--shared_dim=192', AWARE),
  'collab-96-plain': ('--attention=collab', '--shared_dim=96'),
  'collab-96-aware': ('--attention=collab', '--shared_dim=96', AWARE),
  'mqa': ('--attention=mqa', AWARE),
  'mhe_mul': ('--attention=mhe_mul', AWARE),
}
SEEDS = 0, 1, 2


def arms(task: str, length: int, steps: int) -> list[Arm]:
  """Makes the arms of a task: a model fine-tuned once, and its conversions."""
  overrides = {
    'data.path': '{data}/glue',
    'data.row_length': length,
    'total_steps': steps,
    'optim.warmup_steps': steps // 10,
    'optim.lr': 5e-5,
    'every.eval': steps,
    'every.checkpoint': steps,
    'init_from': '{runs}/minilm',
  }
  config = f'configs/glue.py:{task},minilm'
  once = Arm(f'{task}-once', config, overrides, SEEDS)
  return [once] + [
    Arm(f'{task}-{name}', seeds=SEEDS, source=once.name, convert=convert)
    for name, convert in CONVERSIONS.items()
  ]


ARMS = [arm for task, sizes in TASKS.items() for arm in arms(task, *sizes)]
