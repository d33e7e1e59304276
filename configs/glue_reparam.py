# SPDX-License-Identifier: Apache-2.0
r"""GLUE with a re-parametrised BERT-base: arXiv 2006.16362, section 4.2.

The paper's procedure: fine-tune, decompose every layer, fine-tune again.

  python -m collab.convert BERT_DIR runs/bert        # as it was published
  python train.py --config=configs/glue_reparam.py:mrpc,attention=mha \
      --config.init_from=runs/bert --workdir=runs/mrpc
  python -m collab.convert runs/mrpc runs/mrpc-384 --attention=collab \
      --shared_dim=384 --calibration=train
  python train.py --workdir=runs/mrpc-384            # the same recipe again
  python train.py --workdir=runs/mrpc-384 --eval_only    # or without

Or decompose the pre-trained model, looking at any text, and fine-tune once:

  python -m collab.convert BERT_DIR runs/bert-384 --attention=collab \
      --shared_dim=384 --calibration=FILE
  python train.py --config=configs/glue_reparam.py:mrpc \
      --config.init_from=runs/bert-384

Argument: sub-task and size of configs/glue.py; attention=mha, collab (the
default), gqa, mqa, mhe_mul or mla and its fields: shared_dim=256, or what
--budget has chosen, layer by layer, shared_dim=256/192/...

Published (GLUE's dev sets) and recipe: see configs/glue.py. Files of the other
models: glue_reparam_distilbert.py, glue_reparam_albert.py, and of a model that
a laptop fine-tunes, glue_reparam_minilm.py.
"""

from configs import glue

ATTENTIONS = dict(
  mha=glue.MHA,
  collab=dict(
    name='collab',
    shared_dim=lambda c: c.model.dim // 2,
    bias='content',
    mixing_init='normal',
  ),
  gqa=dict(name='gqa', kv_heads=4),
  mqa=dict(name='mqa'),
  mhe_mul=dict(name='mhe_mul', offset=1.0),
  mla=dict(name='mla', latent_dim=lambda c: c.model.dim // 4),
)


def get_config(argument='', model=None):
  """The experiment; the file of another model gives its fields."""
  words = [word.partition('=') for word in argument.split(',')]
  given = {key: value for key, equals, value in words if equals}
  name = given.get('attention', 'collab')
  if name not in ATTENTIONS:
    raise ValueError(f'attention={name!r}; there are {", ".join(ATTENTIONS)}.')
  rest = [word for word in words if word[0] != 'attention']
  rest = ','.join(''.join(word) for word in rest)
  return glue.get_config(rest, ATTENTIONS[name], model)
