# SPDX-License-Identifier: Apache-2.0
"""wmt14 with collaborative attention; see configs/wmt14.py.

Key width: --config.model.attention.shared_dim=128. The translation model of the
paper has biases on the shared projections and no content bias.
"""

from configs import wmt14


def get_config(argument=''):
  c = wmt14.get_config(argument)
  c.model.attention = dict(
    name='collab',
    num_heads=c.model.attention.num_heads,
    shared_dim=c.model.dim // 2,
    bias='shared',
    mixing_init='normal',
  )
  return c
