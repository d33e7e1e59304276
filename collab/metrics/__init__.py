# SPDX-License-Identifier: Apache-2.0
"""Metrics as plain functions; what is a library's is left to the library."""

# ruff: noqa: E402, for a missing extra is told before an import fails
from collab import extras

extras.need()

from collab.metrics.finite import nan_unless
from collab.metrics.text import (
  bleu,
  bleu_by,
  bleu_counts,
  bleu_metric,
  bleu_of_counts,
  chrf,
)
from collab.metrics.tokens import (
  accuracy,
  cross_entropy,
  in_pieces,
  logits_held,
  perplexity,
  projected_cross_entropy,
  projected_rows,
)

__all__ = [
  'accuracy',
  'bleu',
  'bleu_by',
  'bleu_counts',
  'bleu_metric',
  'bleu_of_counts',
  'chrf',
  'cross_entropy',
  'in_pieces',
  'logits_held',
  'nan_unless',
  'perplexity',
  'projected_cross_entropy',
  'projected_rows',
]
