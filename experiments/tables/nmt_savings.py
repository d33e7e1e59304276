# SPDX-License-Identifier: Apache-2.0
"""BLEU against the parameters and the cache that each attention needs.

Parameters are those of all attention layers, and the cache is what decoding
keeps of a token in one layer. Both are shares of multi-head attention's. All
arms of the study have one budget. The change in BLEU is paired: arms are
compared on the same seeds and sentences, so its interval is narrower than those
of the scores.
"""

from experiments import metric, savings
from experiments import table as tables

ARMS = {  # arm: label, from the most parameters to the fewest
  'mha': 'MHA',
  'mha-96': 'MHA, keys 1/2',
  'collab-96': 'collaborative, 1/2',
  'skv': 'SKV',
  'mha-48': 'MHA, keys 1/4',
  'collab-48': 'collaborative, 1/4',
  'mqa': 'MQA',
  'el': 'EL-ATT',
  'mhe_mul': 'MHE-MUL',
  'mhe_add': 'MHE-ADD',
  'sha': 'SHA',
}


def table() -> tables.Table:
  """Makes the table of BLEU beside what attention needs."""
  return savings.compare(
    'BLEU, parameters and cache',
    __doc__,
    ['translation'],
    metric.BLEU,
    'BLEU',
    ARMS,
  )
