# SPDX-License-Identifier: Apache-2.0
"""Initialisations of MHE-MUL's embeddings and of collaborative mixing.

Otherwise as `translation`, which has the defaults: offset 1 with embeddings of
0.02, mixing of a normal distribution with 0.2. Embeddings of 1 without an
offset are the other reading of the paper. Needs DIR/multi30k.
"""

from experiments import study
from experiments.studies import translation

WORDS = {
  'std-0.2': 'mhe_mul,embedding_std=0.2',
  'std-1': 'mhe_mul,embedding_std=1',
  'offset-0-std-1': 'mhe_mul,offset=0,embedding_std=1',
  'offset-0-std-0.02': 'mhe_mul,offset=0,embedding_std=0.02',
  'concatenate-96': 'collab,shared_dim=96,mixing_init=concatenate',
  'xavier-96': 'collab,shared_dim=96,mixing_init=xavier',
  'concatenate-48': 'collab,shared_dim=48,mixing_init=concatenate',
  'xavier-48': 'collab,shared_dim=48,mixing_init=xavier',
}
CONFIG, BUDGET = translation.CONFIG, translation.BUDGET
ARMS = study.arms(CONFIG, WORDS, BUDGET, seeds=(0, 1))
