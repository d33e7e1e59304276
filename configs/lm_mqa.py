# SPDX-License-Identifier: Apache-2.0
"""lm with `mqa`; see configs/lm.py."""

from configs import lm


def get_config(argument=''):
  return lm.get_config(argument, dict(name='mqa'))
