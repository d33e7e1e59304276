# SPDX-License-Identifier: Apache-2.0
"""Translation of Multi30k English-German by every attention, same budget.

Needs DIR/multi30k: train.en, train.de, val.*, test*.*. MHA's queries and keys,
192 wide in all, are cut to a half and a quarter like collaborative attention's:
the papers' 512, 256 and 128.
"""

from experiments import study

BUDGET = {
  'data.path': '{data}/multi30k',
  'total_steps': 500,
  'optim.name': 'muon',
  'optim.lr': 3e-3,
  'optim.warmup_steps': 50,
  'every.eval': 500,
  'every.checkpoint': 50,
}
WORDS = {
  'mha': 'mha',
  'mha-96': 'mha,key_features=96',
  'mha-48': 'mha,key_features=48',
  'collab-96': 'collab,shared_dim=96',
  'collab-48': 'collab,shared_dim=48',
  'mqa': 'mqa',
  'skv': 'skv',
  'el': 'el',
  'sha': 'sha',
  'mhe_add': 'mhe_add',
  'mhe_mul': 'mhe_mul',
}
CONFIG = 'configs/wmt14.py:small'
ARMS = study.arms(CONFIG, WORDS, BUDGET, seeds=(0, 1, 2))
