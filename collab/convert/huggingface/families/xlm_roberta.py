# SPDX-License-Identifier: Apache-2.0
"""XLM-R, arXiv 1911.02116: RoBERTa by another name."""

from collab.convert.huggingface.families import roberta

FAMILY = roberta.family('XLMRoberta')
