# SPDX-License-Identifier: Apache-2.0
"""Twelve attentions as language models of books, with equal parameters.

Each has its own learning rate, that of `family_rates`, which says the rest.
Multi-head attention is in `noise`.
"""

from experiments.studies import family_rates

ARMS = [family_rates.tuned(x) for x in family_rates.NAMES if x != 'mha']
