# SPDX-License-Identifier: Apache-2.0
"""glue with `gqa`; see configs/glue.py."""

from configs import glue


def get_config(argument=''):
  return glue.get_config(argument, dict(name='gqa', kv_heads=2))
