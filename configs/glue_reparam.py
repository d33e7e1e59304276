# SPDX-License-Identifier: Apache-2.0
r"""GLUE with a re-parametrised BERT-base: arXiv 2006.16362, section 4.2.

The paper's procedure: fine-tune, decompose every layer, fine-tune again.

  python -m collab.convert BERT_DIR runs/bert        # as it was published
  python train.py --config=configs/glue.py:mrpc \
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

Key width: shared_dim=256, or what --budget has chosen, layer by layer,
shared_dim=256/192/... Another attention, or another pre-trained model:
configs/glue.py:mrpc,albert,gqa,kv_heads=4. Published numbers and recipe: see
configs/glue.py.
"""

from configs import fixed, glue

get_config = fixed(glue.get_config, 'collab')
