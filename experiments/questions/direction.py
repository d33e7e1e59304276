# SPDX-License-Identifier: Apache-2.0
"""Do the attentions rank alike in both directions of translation?

Both papers translate into German. Is the order of the attentions the
same out of it?

**It is.** Collaborative attention with a quarter of the key width is as good as
MHA in both directions; MQA, SHA and both MHE lose 1.3 to 1.7 BLEU in both, and
no direction tells these four apart. Out of German two seeds; captions of
images, and models of 3 to 4 million parameters.
"""

from experiments import blocks, metric
from experiments.blocks import Block

LABELS = {
  'mha': 'MHA',
  'mqa': 'MQA',
  'sha': 'SHA',
  'collab-48': 'collaborative, 1/4',
  'mhe_add': 'MHE-ADD',
  'mhe_mul': 'MHE-MUL',
}
BACK = {f'de-en-{arm}': label for arm, label in LABELS.items()}
BLOCKS = (
  Block('English to German', ['translation'], metric.BLEU, LABELS),
  Block('German to English', ['german_english'], metric.BLEU, BACK),
)


def table() -> blocks.Table:
  """Makes the table of BLEU into German and out of it."""
  return blocks.compare('Another direction', __doc__, BLOCKS)
