# SPDX-License-Identifier: Apache-2.0
"""Language models of WikiText-2 by six attentions, same budget.

Needs DIR/wikitext-2: wiki.train.raw, ...
"""

from experiments.study import Arm

BUDGET = {
  'data.path': '{data}/wikitext-2',
  'total_steps': 1000,
  'optim.warmup_steps': 100,
}
VARIANTS = 'mha', 'sha', 'mqa', 'collab', 'mhe_add', 'mhe_mul'
ARMS = [
  Arm(name, f'configs/lm.py:wikitext2,small,{name}', BUDGET, seeds=(0, 1))
  for name in VARIANTS
]
