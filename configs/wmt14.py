# SPDX-License-Identifier: Apache-2.0
r"""WMT-14 English-German, the translation experiments of both papers.

  python train.py --config=configs/wmt14_mhe_mul.py           # TFDS, 8 devices
  python train.py --config=configs/wmt14_mhe_mul.py:sample    # bundled, minutes
  python train.py --config=configs/wmt14_mha.py:small \
      --config.data.path=DIR                                  # one CPU

Sizes: `sample` (the bundled sample, a small model), `small` (a model for one
CPU, for local files), or none: the published recipe (Transformer base, at
most 28,672 tokens an update, Adam 0.9/0.98, inverse square root with 4,000
warm-up steps to 7e-4, dropout 0.1, label smoothing 0.1, joint BPE of 32k). The
papers' number of updates, averaging and decoding were not recovered; 100,000
updates, the mean of the last 10 checkpoints, beam 4 and alpha 0.6 are our
choice.

Published BLEU (arXiv 2006.16362), key width 512 / 256 / 128 / 64:
  concatenate    27.40 / 27.10 / 26.89 / 26.77   wmt14_mha.py:key_features=
  collaborative  27.58 / 27.41 / 27.40 / 27.31   wmt14_collab.py:shared_dim=
"""

from ml_collections import ConfigDict

from configs import attend, base, parse


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(argument)
  c = base()
  c.task = dict(
    name='wmt14',  # a file of collab/tasks, or an import path
    label_smoothing=0.1,  # of the training loss
    beam=4,  # hypotheses of the beam search
    alpha=0.6,  # its length penalty
  )
  c.data = dict(
    corpus='wmt14_translate/de-en',  # in TFDS, unless path is given
    path='',  # folder of train.en, train.de, val.*, test*.*; or .tsv; or .gz
    files=(),  # else 'train=FILE,FILE', 'val=...', 'test=...'
    source='en',  # ending of its files, or feature in TFDS
    target='de',  # likewise
    vocab_size=32_768,  # of a tokenizer that is trained here
    vocabulary='',  # a tokenizer.json instead
    folder='',  # folder of the tokenised text, default WORKDIR/data
    row_length=256,  # tokens of a row, on each side
    batch_size=112,  # rows: 28,672 tokens an update
    too_long='drop',  # pairs that fill more than a row; or 'truncate'
  )
  c.model.update(
    name='encoder_decoder',
    dim=512,
    encoder_layers=6,  # layers of the encoder
    decoder_layers=6,  # layers of the decoder
    mlp_dim=2048,
    activation='relu',
    norm='post',
    epsilon=1e-6,
    positions='sinusoidal',  # learned, sinusoidal, none
    max_length=1024,  # learned positions, and tokens when decoding
    output_bias=False,  # whether logits have a bias
    attention=dict(num_heads=8),
    decoder_attention=dict(),  # default: attention
    cross_attention=dict(),  # default: attention
  )
  c.optim.update(name='adam', lr=7e-4, schedule='inverse_sqrt', clip=0.0)
  c.optim.update(warmup_steps=4000, b2=0.98, eps=1e-9, weight_decay=0.0)
  c.update(total_steps=100_000, every=dict(log=100, eval=2000, checkpoint=2000))
  c.checkpoint.update(keep=10, average=10, final='last')
  resize(c, words.size)
  if words.smoke:
    c.task.beam = 1  # what has not learnt to end takes long
  # The paper's translation model has biases on the shared projections.
  return attend(c, words, collab=dict(bias='shared'))


def resize(c: ConfigDict, size: str) -> None:
  """Changes model and training to a smaller size, if one is given."""
  if size == 'sample':
    c.data.update(corpus='sample', vocab_size=2000)
    c.data.update(row_length=64, batch_size=64)
    c.model.update(dim=128, encoder_layers=2, decoder_layers=2, mlp_dim=512)
    c.model.update(max_length=256, norm='pre', attention=dict(num_heads=4))
    c.optim.update(lr=3e-3, schedule='cosine', warmup_steps=100)
    c.update(total_steps=600, every=dict(log=50, eval=200, checkpoint=100))
    c.checkpoint.update(keep=3, average=2)
  elif size == 'small':
    c.data.update(vocab_size=4000, row_length=64, batch_size=48)
    c.model.update(dim=192, encoder_layers=3, decoder_layers=3, mlp_dim=768)
    c.model.update(max_length=512, norm='pre', attention=dict(num_heads=6))
    c.optim.update(lr=2e-3, schedule='cosine', warmup_steps=400)
    c.update(total_steps=2400, every=dict(log=50, eval=400, checkpoint=100))
    c.checkpoint.update(keep=5, average=5)
