# SPDX-License-Identifier: Apache-2.0
r"""SuperGLUE: fine-tuning of an encoder.

  python train.py --config=configs/superglue.py:boolq \
      --config.init_from=WORKDIR                # a run of configs/mlm.py
  python train.py --config=configs/superglue.py:boolq,sample    # minutes
  python train.py --config=configs/superglue.py:rte,small \
      --config.data.path=DIR                    # one CPU; DIR has RTE, ...

Sub-tasks: boolq (the default), cb, copa, multirc, record, rte, wic, wsc.
Sizes: as of configs/glue.py. The paper that runs it (Findings of EMNLP 2023,
arXiv 2310.07911) has neither code nor, as far as we could recover, a recipe:
BERT-base as in configs/glue.py, 10 epochs (3 of MultiRC), length 256 where
there is a passage, is our choice. No published number is known to us either.

TFDS prepares SuperGLUE only with TensorFlow: pip install '.[prepare]'.
"""

from ml_collections import ConfigDict

from configs import glue, parse

PASSAGES = ('boolq', 'multirc', 'record')

# {sub-task: (examples of the published training set, epochs)}.
TRAINING = dict(
  boolq=(9_427, 10),
  cb=(250, 10),
  copa=(400, 10),
  multirc=(27_243, 3),  # answers of 5,100 questions
  record=(100_730, 10),  # questions, of about ten entities: so one epoch
  rte=(2_490, 10),
  wic=(5_428, 10),
  wsc=(554, 10),
)


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(argument, tuple(TRAINING))
  length = 256 if words.subtask in PASSAGES else 128
  data = dict(corpus='super_glue', row_length=length)
  return glue.sentences('superglue', words, data, glue.BERT_BASE, TRAINING)
