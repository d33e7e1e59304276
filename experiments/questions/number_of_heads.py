# SPDX-License-Identifier: Apache-2.0
"""Do head embeddings (MHE) keep up when there are 8 to 128 heads?

Do head embeddings keep up when heads are many? The papers stop at 16.
Every head is 16 wide, so that MHA's attention grows with their number while the
model stays 192 wide; MHE's grows by the output projection alone.

**MHE-MUL keeps its lead over SHA, and does not keep up with MHA.** From 8 to
128 heads its perplexity is 9 to 11 % below SHA's, MHE-ADD's 2 %, 2 % and not at
all: where heads are as narrow as these, an embedding for each does help. MHA,
whose heads have parameters of their own, gains 10 % from 8 to 32 heads and no
more from 128; the other three lose 8 to 11 %. After 400 steps all are far from
converged; two seeds.
"""

from experiments import blocks, metric
from experiments.studies import many_heads

LABELS = dict(mha='MHA', mhe_mul='MHE-MUL', sha='SHA', mhe_add='MHE-ADD')


def table() -> blocks.Table:
  """Makes the table of perplexity with 8, 32 and 128 heads."""
  found = []
  for H in many_heads.HEADS:
    arms = {f'{name}-{H}': label for name, label in LABELS.items()}
    found.append(
      blocks.Block(f'{H} heads', ['many_heads'], metric.PERPLEXITY, arms)
    )
  return blocks.compare('From 8 to 128 heads', __doc__, found)
