# SPDX-License-Identifier: Apache-2.0
"""How do head embeddings (MHE) do on Penn Treebank, the paper's second corpus?

By words: the closed vocabulary of 10,000 and the published splits, perplexity
of a word on the test set, ends of lines included. An interpolated Kneser-Ney
5-gram has 141. One recipe, tuned for MHA on the validation set; each attention
has its own number of parameters, as in the paper.
"""

from experiments import blocks, metric

LABELS = {
  'mha': 'MHA',
  'sha': 'SHA',
  'mhe_add': 'MHE-ADD',
  'mhe_mul': 'MHE-MUL',
  'mqa': 'MQA',
  'collab': 'collaborative, 1/2',
  'skv': 'SKV',
  'el': 'EL-ATT',
  'mha-m': 'MHA, wider: 1.3M beside 0.5M',
}


def table() -> blocks.Table:
  """Makes the table of perplexity on Penn Treebank."""
  block = blocks.Block('Penn Treebank', ['ptb'], metric.PERPLEXITY, LABELS)
  return blocks.compare('Penn Treebank', __doc__, [block])
