# SPDX-License-Identifier: Apache-2.0
r"""Classification or regression of one's own texts, or pairs of texts.

  python train.py --config=configs/classify.py:small \
      --config.data.path=reviews.csv     # columns text and label; one CPU
  python train.py --config=configs/classify.py:regression,small \
      --config.data.path=DIR --config.data.text=question \
      --config.data.text_pair=answer --config.data.label=score
  python train.py --config=configs/classify.py --config.data.path=hf:glue/rte \
      --config.data.text=sentence1 --config.data.text_pair=sentence2 \
      --config.init_from=WORKDIR         # a run of configs/mlm.py
  python train.py --config=configs/classify.py:sample     # bundled, minutes

Sub-tasks: classes (the default), regression. The path is a CSV, TSV, JSONL or
Parquet file, a folder with one for each split, a folder that `datasets` has
saved, or hf:NAME/SUBSET; see collab/data/readers/tables.py.
Models and sizes: as of configs/glue.py. The recipe is BERT's too, for 1,000
steps of 32 rows, with an evaluation every 100. A number to predict should be of
a size of about one.
"""

from ml_collections import ConfigDict

from configs import glue, parse

# {sub-task: (examples, epochs)}, which no config knows of data to come.
TRAINING = dict(classes=(3_200, 10), regression=(3_200, 10))


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(argument, tuple(TRAINING), tuple(glue.MODELS))
  model = glue.BERT_BASE | glue.MODELS[words.model]
  data = dict(
    path='',  # a table, a folder of tables, or hf:NAME/SUBSET
    text='text',  # column of the text
    text_pair='',  # column of a second text; '' for none
    label='label',  # column of the class, or of the number
  )
  return glue.sentences('classify', words, data, model, TRAINING)
