# SPDX-License-Identifier: Apache-2.0
"""wmt14 with collaborative attention; see configs/wmt14.py.

Key width: configs/wmt14_collab.py:shared_dim=128. The translation model of the
paper has biases on the shared projections and no content bias.
"""

from configs import wmt14


def get_config(argument=''):
  return wmt14.get_config(
    argument,
    dict(
      name='collab',
      shared_dim=lambda c: c.model.dim // 2,
      bias='shared',
      mixing_init='normal',
    ),
  )
