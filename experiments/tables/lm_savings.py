# SPDX-License-Identifier: Apache-2.0
"""Language models of one size: bits against what their attention needs.

Bits per character of books, lower is better. Parameters are those of all
attention layers, and the cache is what decoding keeps of a token in one layer.
Both are shares of multi-head attention's. What attention saves goes into the
MLP, so all models have as many parameters. [The family on
books](../questions/family.md) says the rest.
"""

from experiments import metric, savings
from experiments import table as tables
from experiments.questions import family

STUDIES = 'noise', 'family'


def table() -> tables.Table:
  """Makes the table of bits beside what attention needs."""
  return savings.compare(
    'Bits, parameters and cache',
    __doc__,
    STUDIES,
    metric.BITS,
    'bits',
    family.LABELS,
  )
