# SPDX-License-Identifier: Apache-2.0
"""Metrics as plain functions, by libraries where they have them.


`tokens` are for language models and losses, `labels` for GLUE and SuperGLUE,
`spans` for SQuAD, `bleu` for BLEU and chrF.
"""

from collab import extras

extras.need()
