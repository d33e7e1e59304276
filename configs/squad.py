# SPDX-License-Identifier: Apache-2.0
r"""SQuAD v1.1 and v2.0, and XQuAD's English questions.

  python train.py --config=configs/squad.py:mhe_mul --config.init_from=DIR
  python train.py --config=configs/squad.py:v2,sample,collab  # bundled, minutes
  python train.py --config=configs/squad.py:xquad,small \
      --config.data.path=DIR                     # with xquad.en.json; one CPU

Sub-tasks: `v1` (default), `v2` (questions without an answer), `xquad` (one file
split by articles, by data.path). Sizes: `sample` (the bundled sample), `small`
(a model for one CPU), or none: BERT-base and the recipe of its paper (windows
of 384 tokens every 128, batch 32, Adam with weight decay 0.01, 3e-5 falling
linearly after a tenth of the steps, 2 epochs: about 5,500 steps of v1.1 and
8,200 of v2.0), from a pre-trained run (init_from; mlm.py trains one). The best
checkpoint by F1 on dev is evaluated; SQuAD's test set is not public, so where
there is none, 'test' is dev too, as in published results.

The MHE paper (arXiv 2310.07911) reports SQuAD; its tables were not recovered,
so there is no number to compare with here.

On XQuAD's thousand questions a model that was not pre-trained learns next to
nothing: `xquad,small` checks the path from file to score.
"""

from ml_collections import ConfigDict

from configs import attend, base, glue, parse


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(argument, ('v1', 'v2', 'xquad'))
  subtask = words.subtask
  c = base()
  c.task = dict(
    name='squad',  # a file of collab/tasks, or an import path
    max_answer_length=30,  # tokens
    null_threshold=0.0,  # v2.0: how much better than an answer none has to be
  )
  c.data = dict(
    corpus='squad',  # in TFDS, unless path is given
    version='v1.1',  # or 'v2.0'
    path='',  # folder of train-v1.1.json, dev-v1.1.json, ...; or .gz
    files=(),  # else 'train=FILE', 'val=FILE', ...; or 'all=FILE'
    vocab_size=30_522,  # of a tokenizer that is trained here
    vocabulary='',  # a tokenizer.json instead
    row_length=384,  # tokens of a window, with the question
    stride=128,  # tokens from a window of a passage to the next
    question_length=64,  # most tokens of a question
    batch_size=32,  # windows of an update
  )
  c.model.update(glue.BERT_BASE)
  c.optim.update(lr=3e-5, schedule='linear', warmup_steps=550)
  c.optim.update(b2=0.999, eps=1e-6, weight_decay=0.01)
  c.update(total_steps=5500, every=dict(log=100, eval=500, checkpoint=500))
  c.checkpoint.update(keep=1, best='val/f1')
  if subtask == 'v2':
    c.data.version = 'v2.0'
    c.update(total_steps=8200, optim=dict(warmup_steps=820))
  elif subtask == 'xquad':
    c.data.corpus = ''  # only from path
    c.optim.warmup_steps = 20
    c.update(total_steps=200, every=dict(log=20, eval=50, checkpoint=50))
  resize(c, words.size)
  return attend(c, words)


def resize(c: ConfigDict, size: str) -> None:
  """Changes model and training to a smaller size, if one is given."""
  if size == 'sample':
    c.data.update(corpus='sample', vocab_size=1500, batch_size=64)
    c.data.update(row_length=48, stride=24, question_length=16)
    c.model.update(dim=128, num_layers=2, mlp_dim=512, max_length=64)
    c.model.update(norm='pre', dropout=0.0, attention_dropout=0.0)
    c.model.attention.num_heads = 4
    c.optim.update(lr=2e-3, schedule='cosine', warmup_steps=100)
    c.update(total_steps=600, every=dict(log=50, eval=200, checkpoint=100))
  elif size == 'small':
    c.data.update(vocab_size=4000, row_length=256, batch_size=16)
    c.data.update(stride=96, question_length=48)
    c.model.update(dim=192, num_layers=3, mlp_dim=768, max_length=256)
    c.model.update(norm='pre', attention=dict(num_heads=6))
    c.optim.update(lr=5e-4, schedule='cosine', warmup_steps=50)
    c.update(total_steps=300, every=dict(log=20, eval=100, checkpoint=50))
