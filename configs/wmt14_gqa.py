# SPDX-License-Identifier: Apache-2.0
"""wmt14 with `gqa` in all places; see configs/wmt14.py."""

from configs import wmt14


def get_config(argument=''):
  return wmt14.get_config(argument, dict(name='gqa', kv_heads=2))
