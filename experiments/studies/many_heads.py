# SPDX-License-Identifier: Apache-2.0
"""Language models of WikiText-2 with 8, 32 and 128 heads, each 16 wide.

More heads make the attention wider and not the model. Needs DIR/wikitext-2:
wiki.train.raw, ...
"""

from experiments.studies import lm
from experiments.study import Arm

WIDTH = 16
HEADS = 8, 32, 128
NAMES = 'mha', 'mqa', 'sha', 'mhe_add', 'mhe_mul'
ARMS = [
  Arm(
    f'{name}-{heads}',
    f'configs/lm_{name}.py:wikitext2,small,num_heads={heads},'
    f'qkv_features={WIDTH * heads}',
    lm.BUDGET,
  )
  for name in NAMES
  for heads in HEADS
]
