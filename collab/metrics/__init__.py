# SPDX-License-Identifier: Apache-2.0
"""Metrics as plain functions, computed by libraries where possible.

`tokens` has losses and the metrics of language models, `labels` those of GLUE
and SuperGLUE, `spans` SQuAD's, `bleu` BLEU and chrF. `finite` guards scores.
"""

from collab import extras

extras.need()
