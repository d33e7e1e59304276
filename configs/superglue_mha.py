# SPDX-License-Identifier: Apache-2.0
"""superglue with multi-head attention; see configs/superglue.py."""

from configs import superglue


def get_config(argument=''):
  return superglue.get_config(argument)
