# SPDX-License-Identifier: Apache-2.0
"""Attentions of `family` at a larger size: does the gap to MHA grow or shrink?

Of configs/decoder.py:m, 1.3 million parameters without embeddings, with rows of
256 tokens and 26 million of them. Rates are those of `family_m_rates`.
"""

from experiments.studies import family_m_rates, family_rates

ARMS = [family_rates.tuned(x, size='m') for x in family_m_rates.NAMES]
