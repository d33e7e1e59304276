# SPDX-License-Identifier: Apache-2.0
"""Language models of WikiText-2: the modern decoder against `lm`'s recipe.

Both have as many parameters without embeddings, to within 1 %, and read as many
tokens. The other arms take one ingredient of the modern decoder away. Of these,
two are no default of configs/decoder.py. Needs DIR/wikitext-2: wiki.train.raw,
...
"""

from experiments import study

BUDGET = {
  'data.path': '{data}/wikitext-2',
  'total_steps': 1000,
  'optim.warmup_steps': 66,  # as configs/decoder.py has it, total_steps / 15
}
SEEDS = 0, 1, 2
CONFIG = 'configs/decoder.py:s,mha'
QK_NORM, Z_LOSS = ',qk_norm=true', {'task.z_loss': 1e-4}
# `lm`'s small size at the width of :s, with its learning rate.
OLD = {
  'model.dim': 128,
  'model.mlp_dim': 380,
  'model.attention.num_heads': 4,
  'optim.lr': 0.0036742346141747673,
}
# {an ingredient: further words, and fields, of the decoder that lacks it}.
WITHOUT = {
  'rotation': (QK_NORM + ',learned', Z_LOSS),
  'rms': (QK_NORM, Z_LOSS | {'model.norm_kind': 'layer'}),
  'gated_mlp': (QK_NORM + ',gelu', Z_LOSS),
  'qk_norm': ('', Z_LOSS),
  'z_loss': (QK_NORM, {}),
  'wsd': (QK_NORM, Z_LOSS | {'optim.schedule': 'cosine'}),
}
ARMS = [
  study.Arm('modern', CONFIG + QK_NORM, BUDGET | Z_LOSS, SEEDS),
  study.Arm('lm', 'configs/lm.py:wikitext2,small', BUDGET | OLD, SEEDS),
  *(
    study.Arm(f'without_{name}', CONFIG + words, BUDGET | fields, (0,))
    for name, (words, fields) in WITHOUT.items()
  ),
]
