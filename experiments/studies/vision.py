# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST by five attentions, same budget.

Needs DIR/fashion_mnist: the four idx files. MHA's queries and keys are 128 wide
in all, collaborative attention's a half and a quarter of it. Five epochs.
"""

from experiments import study

BUDGET = {
  'data.path': '{data}/fashion_mnist',
  'total_steps': 2148,
  'every.eval': 2148,
}
WORDS = {
  'mha': 'mha',
  'collab-64': 'collab,shared_dim=64',
  'collab-32': 'collab,shared_dim=32',
  'mhe_add': 'mhe_add',
  'mhe_mul': 'mhe_mul',
}
CONFIG = 'configs/vit.py:fashion_mnist,small'
ARMS = study.arms(CONFIG, WORDS, BUDGET, seeds=(0, 1))
