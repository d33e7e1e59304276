# SPDX-License-Identifier: Apache-2.0
"""The attentions of `family` in one recipe: MHA's rate, and MHA's MLP.

So an attention that saves parameters makes a smaller model. One seed.
"""

from experiments.studies import family_rates

MHA = family_rates.tuned('mha')
FIELDS = {k: x for k, x in MHA.overrides.items() if k != 'model.mlp_dim'}
ARMS = [
  MHA._replace(
    name=x, config=f'configs/decoder.py:s,{x}', overrides=FIELDS, seeds=(0,)
  )
  for x in family_rates.NAMES
  if x != 'mha'
]
