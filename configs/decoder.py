# SPDX-License-Identifier: Apache-2.0
r"""A modern decoder, in which every attention is compared under one recipe.

  python train.py --config=configs/decoder.py:sample      # bundled, two minutes
  python train.py --config=configs/decoder.py:s,mhe_add,equal \
      --config.data.path=DIR              # one CPU; wiki.train.raw, ...
  python train.py --config=configs/decoder.py:124m,gqa,kv_heads=4 \
      --config.data.path=DIR              # one GPU
  python train.py --config=configs/decoder.py:1b --config.fsdp=8 \
      --config.data.path=DIR              # 8 GPUs

Rotary positions, RMS norms, a gated MLP and no biases, as in Llama, and a WSD
schedule. Normalised queries and keys (the word qk_norm=true) and a z-loss
(task.z_loss=1e-4) are no default: they gained nothing at :s, see
experiments/questions/modern_decoder.md. Text: local files as in configs/lm.py,
or a data set of TFDS with a feature `text` by data.corpus.

Sizes, by parameters without embeddings: `s` 0.5M, `m` 1.3M, `l` 11M, `124m` 85M
(the default; GPT-2's shape, of 124M with its embeddings), `1b` 1.0B; and
`sample`, on the prose of Python's help. From `l` on, training takes about 20
tokens a parameter (arXiv 2203.15556).
MLPs, of the same parameters: `swiglu` (the default), `geglu`, `relu2`, `gelu`.
Tokens: `bpe` (the default), or `bytes` in rows that are 4 times as long.
Positions: `rope` (the default), `learned`, `sinusoidal`, `none`.
Parameters: `own` (the default), or `equal`: the MLP gets what this attention
saves over multi-head attention, so that all parameters without embeddings are
as many, to within 1 %.

By width: a matrix starts with a standard deviation, and learns at a rate, that
are proportional to 1 / sqrt(dim). Muon's update has the size of Adam's, see
optim.muon, and its singular values are all about 0.2 lr sqrt(dim). So the
spectral norms of matrices and updates do not depend on the width, which is what
keeps a learning rate good at another one (arXiv 2310.17813). Embeddings start
at 0.02 and have the rate of the matrices.
"""

from ml_collections import ConfigDict

from collab import accounting, models
from configs import attend, base, parse

LR, DIM = 3e-3, 192  # the learning rate at this width
# {size: fields of the model, fields of data, total_steps, steps of every.*}.
SIZES = {
  'sample': (
    dict(dim=128, num_layers=2, mlp_dim=344, attention=dict(num_heads=4)),
    dict(corpus='sample', vocab_size=2000, row_length=64, batch_size=32),
    600,
    dict(log=50, eval=200, checkpoint=100),
  ),
  's': (
    dict(dim=128, num_layers=3, mlp_dim=256, attention=dict(num_heads=4)),
    dict(vocab_size=8000, row_length=128, batch_size=16),
    3000,
    dict(log=50, eval=500, checkpoint=250),
  ),
  'm': (
    dict(dim=192, num_layers=3, mlp_dim=512, attention=dict(num_heads=6)),
    dict(vocab_size=8000, row_length=128, batch_size=16),
    3000,
    dict(log=50, eval=500, checkpoint=250),
  ),
  'l': (
    dict(dim=384, num_layers=6, mlp_dim=1024, attention=dict(num_heads=6)),
    dict(vocab_size=16_384, row_length=512, batch_size=64),
    6500,
    dict(log=100, eval=500, checkpoint=500),
  ),
  '124m': (
    dict(dim=768, num_layers=12, mlp_dim=2048, attention=dict(num_heads=12)),
    dict(vocab_size=32_768, row_length=1024, batch_size=256),
    6500,
    dict(log=100, eval=500, checkpoint=500),
  ),
  '1b': (
    dict(dim=2048, num_layers=20, mlp_dim=5504, attention=dict(num_heads=16)),
    dict(vocab_size=32_768, row_length=2048, batch_size=512),
    20_000,
    dict(log=100, eval=1000, checkpoint=500),
  ),
}
MLPS = dict(
  swiglu=dict(mlp='gated', activation='silu'),  # arXiv 2002.05202
  geglu=dict(mlp='gated', activation='gelu'),
  relu2=dict(mlp='dense', activation='relu2'),
  gelu=dict(mlp='dense', activation='gelu'),
)


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(
    argument,
    sizes=SIZES,
    mlp=MLPS,
    positions=('rope', 'learned', 'sinusoidal', 'none'),
    tokens=('bpe', 'bytes'),
    parameters=('own', 'equal'),
  )
  size = words.size or '124m'
  model, data, steps, every = SIZES[size]
  c = base()
  c.task = dict(
    name='lm',  # a file of collab/tasks, or an import path
    z_loss=0.0,  # weight of the square of log Z, which keeps logits small
    documents='',  # or 'line', 'paragraph': rows are packed with those
  )
  c.data = dict(
    corpus='',  # a data set of TFDS, unless path is given
    path='',  # folder of wiki.train.raw, ...; plain or .gz
    column='text',  # of tables: CSV, TSV, JSON lines, Parquet
    kind='bpe',  # or 'words', a closed vocabulary
    vocab_size=0,  # of a tokenizer that is trained here
    vocabulary='',  # a tokenizer.json instead
    folder='',  # folder of the tokens, default WORKDIR/data
    row_length=0,  # tokens of a row
    batch_size=0,  # rows of an update
    eval_stride=0,  # tokens that count in a window, after the first
  )
  c.data.update(data)
  if words.others['tokens'] == 'bytes':
    c.data.update(vocab_size=261, row_length=4 * c.data.row_length)
    c.data.batch_size //= 4  # 261: the bytes and the special tokens
  L = c.data.row_length
  c.data.eval_stride = L // 2
  c.model.update(
    name='decoder',
    num_layers=0,  # layers
    mlp='',  # gated, dense
    use_bias=False,  # of the projections of MLP and attention
    norm_kind='rms',  # or layer
    epsilon=1e-6,
    tied=True,  # whether the embedding table also gives the logits
    positions='none',  # beside rope's: learned, sinusoidal, none
    max_length=2 * L,  # tokens when decoding
    dropout=0.0,
  )
  c.model.update(model)
  c.model.update(MLPS[words.others['mlp']])
  if c.model.mlp == 'dense':  # two matrices, not three
    c.model.mlp_dim = c.model.mlp_dim * 3 // 2
  if size in ('124m', '1b'):
    c.model.dtype, c.accumulate = 'bfloat16', 8
  if size == '1b':
    c.model.update(scan=True, remat='dots')
    c.accumulate = 16
  c.optim.update(
    name='muon', schedule='wsd', lr=LR * (DIM / c.model.dim) ** 0.5
  )
  c.optim.update(b2=0.95, eps=1e-8, weight_decay=0.1, warmup_steps=steps // 15)
  c.update(total_steps=steps, every=every)
  c.model.attention.qk_norm = False  # RMS norm of queries and keys
  own = {}
  if words.others['positions'] == 'rope':
    c.model.attention.rope = dict(
      base=10_000.0,  # the slowest plane turns by about 1 / base a token
      fraction=1.0,  # share of a head's width that rotates
    )
    # Half the width of a head, as in the paper, and even.
    head = c.model.dim // c.model.attention.num_heads
    own['mla'] = own['gla'] = dict(
      rope_dim=head // 4 * 2,  # width of the key that rotates beside the latent
    )
  else:
    c.model.positions = words.others['positions']
  attend(c, words, **own)
  if words.others['parameters'] == 'equal':
    c.model.mlp_dim += saved(c, c.model.dim // 16)
  return c


def saved(c: ConfigDict, step: int) -> int:
  """Returns how much wider an MLP of the saved parameters is: n step.

  With a step of dim / 16, of which half is 0.8 % of a block, the width remains
  one that hardware likes.
  """
  model = models.build(**c.model.to_dict(), vocab_size=1)
  count = accounting.attention_parameters
  more = count(accounting.with_mha(model)) - count(model)
  matrices = 3 if c.model.mlp == 'gated' else 2
  width = more / (c.model.num_layers * matrices * c.model.dim)
  return step * round(width / step)
