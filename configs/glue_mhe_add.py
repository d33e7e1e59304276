# SPDX-License-Identifier: Apache-2.0
"""glue with `mhe_add`; see configs/glue.py."""

from configs import glue


def get_config(argument=''):
  return glue.get_config(argument, dict(name='mhe_add'))
