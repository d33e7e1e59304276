# SPDX-License-Identifier: Apache-2.0
"""mlm with `sha`; see configs/mlm.py."""

from configs import mlm


def get_config(argument=''):
  return mlm.get_config(argument, dict(name='sha'))
