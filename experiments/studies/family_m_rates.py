# SPDX-License-Identifier: Apache-2.0
"""Learning rates for `family_m`, as in `family_rates`, which says the rest."""

from experiments.studies import family_rates

NAMES = 'mha', 'mqa', 'collab', 'mhe_mul', 'mla', 'mhe_add'
ARMS = family_rates.tries('m', NAMES)
