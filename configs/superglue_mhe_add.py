# SPDX-License-Identifier: Apache-2.0
"""superglue with `mhe_add`; see configs/superglue.py."""

from configs import superglue


def get_config(argument=''):
  return superglue.get_config(argument, dict(name='mhe_add'))
