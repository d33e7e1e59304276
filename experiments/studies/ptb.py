# SPDX-License-Identifier: Apache-2.0
"""Penn Treebank by words: eight attentions, each with its own parameters.

The published splits and their closed vocabulary of 10,000. Learning rate and
dropout are those that were best for multi-head attention in `ptb_rates`. Three
epochs; `mha-long` has twelve. Needs DIR/ptb.
"""

from experiments import study
from experiments.studies import ptb_rates

RATE, DROPOUT = ptb_rates.chosen()
FIELDS = ptb_rates.fields('{data}/ptb', RATE, DROPOUT, ptb_rates.STEPS)
LONG = ptb_rates.fields('{data}/ptb', RATE, DROPOUT, 4 * ptb_rates.STEPS)
NAMES = 'mha', 'sha', 'mhe_add', 'mhe_mul', 'mqa', 'collab', 'skv', 'el'
CONFIG, SEEDS = ptb_rates.CONFIG, (0, 1, 2)
ARMS = study.arms(CONFIG, {x: x for x in NAMES}, FIELDS, SEEDS)
ARMS[4:4] = study.arms(CONFIG, {'mha-long': 'mha'}, LONG, (0,))
