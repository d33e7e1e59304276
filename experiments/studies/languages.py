# SPDX-License-Identifier: Apache-2.0
"""English captions to German, French and Czech by one model: little data.

A caption's first word names the language. 500 to 29,000 images, three pairs
each; as many steps in all. The rest is as in `translation`, but for decoding,
which is greedy. Needs RUNS/texts (experiments.texts).
"""

from experiments import study, texts
from experiments.studies import translation

BUDGET = translation.BUDGET | {
  'data.source': 'source',
  'data.target': 'target',
  'task.beam': 1,
}
NAMES = 'mha', 'sha', 'collab-48', 'mhe_add', 'mhe_mul'
ARMS = [
  study.Arm(
    f'{name}-{pairs}',
    f'{translation.CONFIG},{translation.WORDS[name]}',
    BUDGET | {'data.path': f'{{runs}}/texts/captions-{pairs}'},
  )
  for pairs in texts.PAIRS
  for name in NAMES
]
