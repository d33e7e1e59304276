# SPDX-License-Identifier: Apache-2.0
"""Which head embeddings are better across tasks, MHE-ADD or MHE-MUL?

In MHE-ADD all
heads share one score matrix: they differ by a bias of each key that no query
changes, and by a bias of their value (`collab.attention.variants.mhe_add`). In
MHE-MUL each head has its own scores. Both cost the same parameters, about those
of SHA, which is here as what no embeddings at all give.

**No task tells them apart, and both are near SHA.** MUL is ahead by
0.2 BLEU into German and 0.2 % of images, within the intervals, and level out of
German; MHA is well ahead of all three in both directions. That MUL's heads have
scores of their own bought little here, where heads are 32 wide. Models are
small, training short, two or three seeds. Language models and fine-tuning have
not run yet.
"""

from experiments import blocks, metric
from experiments.blocks import Block

LABELS = dict(mhe_add='MHE-ADD', mhe_mul='MHE-MUL', sha='SHA', mha='MHA')


def _of(name: str) -> dict[str, str]:
  return {name.format(arm): label for arm, label in LABELS.items()}


IMAGES = {arm: label for arm, label in LABELS.items() if arm != 'sha'}
BLOCKS = (
  Block('English to German', ['translation'], metric.BLEU, LABELS),
  Block('German to English', ['german_english'], metric.BLEU, _of('de-en-{}')),
  Block('books', ['noise', 'family'], metric.BITS, LABELS),
  Block('Penn Treebank', ['ptb'], metric.PERPLEXITY, LABELS),
  Block('English into three', ['languages'], metric.BLEU, _of('{}-29000')),
  *(
    Block(title, ['finetune'], of, _of(f'{task}-{{}}'))
    for task, title, of in (
      ('sst2', 'SST-2, pre-trained', metric.ACCURACY),
      ('mrpc', 'MRPC, pre-trained', metric.F1_ACCURACY),
      ('stsb', 'STS-B, pre-trained', metric.CORRELATION),
    )
  ),
  Block('Fashion-MNIST', ['vision'], metric.TOP1, IMAGES),
)


def table() -> blocks.Table:
  """Makes the table of scores of MHE-ADD, MHE-MUL, SHA and MHA, by task."""
  return blocks.compare('MHE-ADD or MHE-MUL', __doc__, BLOCKS)
