# SPDX-License-Identifier: Apache-2.0
"""squad with `gqa`; see configs/squad.py."""

from configs import squad


def get_config(argument=''):
  return squad.get_config(argument, dict(name='gqa', kv_heads=2))
