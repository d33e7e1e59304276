# SPDX-License-Identifier: Apache-2.0
"""Translation from German to English, otherwise as `translation`.

Needs DIR/multi30k: train.en, train.de, val.*, test*.*.
"""

from experiments import study
from experiments.studies import translation

BUDGET = translation.BUDGET | {'data.source': 'de', 'data.target': 'en'}
NAMES = 'mha', 'mqa', 'sha', 'collab-48', 'mhe_add', 'mhe_mul'
WORDS = {f'de-en-{name}': translation.WORDS[name] for name in NAMES}
ARMS = study.arms(translation.CONFIG, WORDS, BUDGET, seeds=(0, 1))
