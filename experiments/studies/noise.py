# SPDX-License-Identifier: Apache-2.0
"""The noise floor of `family`: its multi-head attention with eight seeds."""

from experiments.studies import family_rates

ARMS = [family_rates.tuned('mha', seeds=range(8))]
