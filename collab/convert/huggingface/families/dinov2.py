# SPDX-License-Identifier: Apache-2.0
"""DINOv2, arXiv 2304.07193: ViT with layer scale, perhaps with a gated MLP."""

from collections.abc import Callable

from collab.convert.huggingface.families import vit
from collab.convert.huggingface.families.family import LABELS, Family, block
from collab.convert.huggingface.layouts import DENSE, GATED, WHOLE, within


def fields(get: Callable) -> dict:
  width = int(get('hidden_size') * get('mlp_ratio', 4.0))
  own = dict(mlp='dense')
  if get('use_swiglu_ffn', False):
    own = dict(mlp='gated', activation='silu')
    width = (int(width * 2 / 3) + 7) // 8 * 8
  own |= dict(layer_scale=1.0, pool='class_mean', distillation='none')
  return vit.fields(get, width) | own


_LAYER, _OURS = 'encoder.layer.{}', 'encoder/layer_{}'
_SWIGLU = (
  *within('.weights_in', '', GATED),
  *within('.weights_out', '/mlp_out', DENSE),
)

FAMILY = Family(
  model='vit',
  fields=fields,
  fixed=vit.FIXED,
  defaults=dict(layer_norm_eps=1e-6),
  architectures=dict(
    Dinov2Model=dict(outputs=0),
    Dinov2ForImageClassification=dict(outputs=LABELS),
  ),
  prefix='dinov2',
  body=(
    *vit.EMBEDDINGS,
    (f'{_LAYER}.mlp', _OURS, _SWIGLU),
    (f'{_LAYER}.layer_scale1.lambda1', f'{_OURS}/self_scale', WHOLE),
    (f'{_LAYER}.layer_scale2.lambda1', f'{_OURS}/mlp_scale', WHOLE),
    *block(
      _LAYER,
      heads='attention.attention.{name}',
      out='attention.output.dense',
      self_norm='norm1',
      mlp_in='mlp.fc1',
      mlp_out='mlp.fc2',
      mlp_norm='norm2',
    ),
    vit.NORM_OUT,
  ),
  head=(('classifier', 'head', DENSE),),
  rest=('embeddings.mask_token',),
)
