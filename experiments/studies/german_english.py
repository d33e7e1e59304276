# SPDX-License-Identifier: Apache-2.0
"""Translation from German to English, otherwise as `translation`.

Needs DIR/multi30k: train.en, train.de, val.*, test*.*.
"""

from experiments.studies import translation
from experiments.study import Arm

BUDGET = translation.BUDGET | {'data.source': 'de', 'data.target': 'en'}
NAMES = 'mha', 'mqa', 'sha', 'collab-48', 'mhe_add', 'mhe_mul'
ARMS = [
  Arm(
    f'de-en-{name}',
    f'configs/wmt14.py:small,{translation.WORDS[name]}',
    BUDGET,
    seeds=(0, 1),
  )
  for name in NAMES
]
