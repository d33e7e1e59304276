# SPDX-License-Identifier: Apache-2.0
"""The models of `pretrain`, fine-tuned on three tasks of GLUE.

The pipeline of arXiv 2310.07911: each attention is pre-trained and fine-tuned.
Of SST-2 10,016 of the 67,349 training rows; two epochs of MRPC and STS-B. In
`none` multi-head attention starts from nothing: what pre-training is worth.
Needs DIR/glue, and the finished runs of `pretrain` in RUNS.
"""

from experiments import study
from experiments.studies import pretrain

# {task: (row length, steps)}.
TASKS = {'sst2': (48, 313), 'mrpc': (96, 230), 'stsb': (64, 360)}


def arms(task: str, length: int, steps: int) -> list[study.Arm]:
  """Makes the arms of a task: a model that was pre-trained, or none."""
  budget = {
    'data.path': '{data}/glue',
    'data.row_length': length,
    'total_steps': steps,
    'optim.warmup_steps': steps // 10,
    'every.eval': steps,
    'every.checkpoint': steps,
  }

  def arm(name, words, **start):
    config = f'configs/glue.py:{task},small,{words}'
    return study.Arm(f'{task}-{name}', config, budget | start, (0, 1, 2))

  return [
    *(
      arm(name, name, init_from=f'{{runs}}/pretrain/{name}-s0')
      for name in pretrain.NAMES
    ),
    arm('none', 'mha'),
  ]


ARMS = [arm for task, sizes in TASKS.items() for arm in arms(task, *sizes)]
