# SPDX-License-Identifier: Apache-2.0
"""Penn Treebank by words: eight attentions, each with its own parameters.

The published splits and their closed vocabulary of 10,000. Learning rate and
dropout are those that were best for multi-head attention in `ptb_rates`. Twelve
epochs. `mha-m` is wider, with its rate by width. Needs DIR/ptb.
"""

from experiments import study
from experiments.studies import ptb_rates

RATE, DROPOUT = ptb_rates.chosen()
FIELDS = ptb_rates.fields('{data}/ptb', RATE, DROPOUT)
NAMES = 'mha', 'sha', 'mhe_add', 'mhe_mul', 'mqa', 'collab', 'skv', 'el'
WIDER = FIELDS | {'optim.lr': RATE * (128 / 192) ** 0.5}
ARMS = [
  *study.arms(ptb_rates.CONFIG, {x: x for x in NAMES}, FIELDS, (0, 1, 2)),
  study.Arm('mha-m', 'configs/decoder.py:m,mha', WIDER),
]
