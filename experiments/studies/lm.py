# SPDX-License-Identifier: Apache-2.0
"""Language models of WikiText-2 by six attentions, same budget.

Needs DIR/wikitext-2: wiki.train.raw, ...
"""

from experiments import study

BUDGET = {
  'data.path': '{data}/wikitext-2',
  'total_steps': 1000,
  'optim.warmup_steps': 100,
}
VARIANTS = 'mha', 'sha', 'mqa', 'collab', 'mhe_add', 'mhe_mul'
CONFIG = 'configs/lm.py:wikitext2,small'
ARMS = study.arms(CONFIG, {x: x for x in VARIANTS}, BUDGET, seeds=(0, 1))
