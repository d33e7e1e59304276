# SPDX-License-Identifier: Apache-2.0
"""Does any attention beat multi-head attention at equal parameters?

Language models of books, split by author (BPE of 2,000; 4 million tokens, no
text twice; 0.5 million parameters without embeddings). What attention saves
goes into the MLP, and each attention has its own learning rate, chosen on
validation text. Below are the same attentions in one recipe, MHA's, where
what an attention saves makes the model smaller; and those that have a cache of
about 64 scalars a token and layer, of which MHA has 256. `:m` has 1.3 million
parameters, rows of 256 tokens instead of 128, and read 26 million.
"""

from experiments import blocks, metric
from experiments.blocks import Block

LABELS = {
  'mha': 'MHA',
  'gqa': 'GQA, 2 groups',
  'mqa': 'MQA',
  'skv': 'SKV',
  'sha': 'SHA',
  'collab': 'collaborative, 1/2',
  'mhe_add': 'MHE-ADD',
  'mhe_mul': 'MHE-MUL',
  'mla': 'MLA',
  'gta': 'GTA',
  'tpa': 'TPA',
  'mfa': 'MFA',
}
SMALL = 'mha', 'mqa', 'sha', 'mhe_add', 'mhe_mul'
CACHE = {name: LABELS[name] for name in SMALL} | {
  'mla-64': 'MLA, cache 64',
  'mfa-64': 'MFA, cache 64',
  'gta-48': 'GTA, cache 48',
  'tpa-72': 'TPA, cache 72',
}
M = {
  name: LABELS[name]
  for name in ('mha', 'mqa', 'collab', 'mhe_mul', 'mla', 'mhe_add')
}
BITS = metric.BITS
BLOCKS = (
  Block('equal parameters', ['noise', 'family'], BITS, LABELS),
  Block(':m, equal parameters', ['family_m'], BITS, M),
  Block('equal recipe', ['noise', 'family_recipe'], BITS, LABELS),
  Block('small cache', ['noise', 'family', 'family_cache'], BITS, CACHE),
)


def table() -> blocks.Table:
  """Makes the table of bits per character of all attentions."""
  return blocks.compare('The family on books', __doc__, BLOCKS)
