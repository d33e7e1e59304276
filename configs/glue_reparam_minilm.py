# SPDX-License-Identifier: Apache-2.0
"""GLUE with a re-parametrised MiniLM, 6 layers of 384; see glue_reparam.py.

A model that one CPU fine-tunes; the papers do not have it. all-MiniLM-L6-v2 is
an encoder of this form.
"""

from configs import glue_reparam

MINILM = dict(dim=384, num_layers=6, mlp_dim=1536)


def get_config(argument=''):
  return glue_reparam.get_config(argument, MINILM)
