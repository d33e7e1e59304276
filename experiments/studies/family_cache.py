# SPDX-License-Identifier: Apache-2.0
"""The attentions of `family` at one cache: that of MQA, SHA and MHE-MUL.

That is 64 scalars a token and layer, or the nearest that an attention can have:
in its name. The rest is as in `family`, with the rate of the wider one.
"""

from experiments.studies import family_rates

WORDS = {
  'mla-64': 'mla,latent_dim=48',
  'mfa-64': 'mfa,head_width=32',
  'gta-48': 'gta,kv_heads=1',
  'tpa-72': 'tpa,rank=1',
}
ARMS = [family_rates.tuned(*x) for x in WORDS.items()]
