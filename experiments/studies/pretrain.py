# SPDX-License-Identifier: Apache-2.0
"""Masked language models of WikiText-2 by five attentions, for `finetune`.

Encoders of about 1.6 million parameters; 25 million tokens, a dozen
epochs. Needs DIR/wikitext-2.
"""

from experiments import study

CONFIG, NAMES = (
  'configs/mlm.py:small',
  ('mha', 'sha', 'mhe_add', 'mhe_mul', 'mqa'),
)
BUDGET = {
  'data.path': '{data}/wikitext-2',
  'data.row_length': 128,
  'data.batch_size': 64,
  'model.max_length': 128,
  'total_steps': 3000,
  'optim.warmup_steps': 300,
  'every.eval': 3000,
  'every.checkpoint': 3000,
}
ARMS = study.arms(CONFIG, {x: x for x in NAMES}, BUDGET, seeds=(0,))
