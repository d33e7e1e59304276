# SPDX-License-Identifier: Apache-2.0
"""squad with `sha`; see configs/squad.py."""

from configs import squad


def get_config(argument=''):
  return squad.get_config(argument, dict(name='sha'))
