# SPDX-License-Identifier: Apache-2.0
"""Language models of WikiText-2 with 8, 32 and 128 heads, each 16 wide.

More heads make the attention wider, but not the model. The rest is as in `lm`,
with 400 steps, because 128 heads take up to four times as long. Needs
DIR/wikitext-2: wiki.train.raw, ...
"""

from experiments import study
from experiments.studies import lm

WIDTH = 16
HEADS = 8, 32, 128
BUDGET = lm.BUDGET | {'total_steps': 400, 'optim.warmup_steps': 40}
NAMES = 'mha', 'mhe_mul', 'sha', 'mhe_add'
WORDS = {
  f'{name}-{H}': f'{name},num_heads={H},qkv_features={WIDTH * H}'
  for name in NAMES
  for H in HEADS
}
ARMS = study.arms(lm.CONFIG, WORDS, BUDGET, seeds=(0, 1))
