# SPDX-License-Identifier: Apache-2.0
"""CamemBERT, arXiv 1911.03894: RoBERTa by another name."""

from collab.convert.huggingface.families import roberta

FAMILY = roberta.family('Camembert')
