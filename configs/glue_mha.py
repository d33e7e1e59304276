# SPDX-License-Identifier: Apache-2.0
"""glue with multi-head attention; see configs/glue.py."""

from configs import glue


def get_config(argument=''):
  return glue.get_config(argument)
