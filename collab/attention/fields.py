# SPDX-License-Identifier: Apache-2.0
"""The fields of an attention layer, and the checks of their values."""

from collections.abc import Mapping
import dataclasses
import inspect
import math
import numbers
from typing import Any, ClassVar

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from collab.attention.rope import Rope


class Fields(nn.Module):
  """The fields of `Attention`, with linen's names, order and defaults.

  They are keyword-only from `decode` on. These of linen's raise a TypeError
  with the name: `attention_fn`, `qkv_dot_general`, `out_dot_general`,
  `qkv_dot_general_cls`, `out_dot_general_cls`, `qk_attn_weights_einsum_cls` and
  `attn_weights_value_einsum_cls`.

  Attributes:
    num_heads: H.
    dtype: dtype of the computation; by default that of inputs and parameters.
    param_dtype: dtype of the parameters.
    qkv_features: H times the width of a head, default the width of inputs_q.
    out_features: width of the result, default the width of inputs_q.
    broadcast_dropout: whether all heads and examples share a dropout pattern.
    dropout_rate: dropout rate of the attention weights.
    deterministic: True switches dropout off; an argument of the call, too.
    precision: precision of the matrix products.
    kernel_init: initialiser of the projections.
    out_kernel_init: initialiser of the output projection, default kernel_init.
    bias_init: initialiser of the projections' biases.
    out_bias_init: initialiser of the output bias, default bias_init.
    use_bias: whether projections have biases.
    decode: whether to keep a cache and attend to it; see `__call__`.
    normalize_qk: LayerNorm of queries and keys, parameters query_ln and key_ln,
      for variants with one projection each: mha, gqa, sha. Not with rope.
    force_fp32_for_softmax: accepted, but the softmax is float32 either way.
    implementation: ours, not linen's: 'xla', 'cudnn' or 'splash' has to take
      every call but those that decode, and a call that it does not take raises
      a ValueError. By default the kernel is chosen, see choice.py. On an
      accelerator second derivatives and some jax.vmap need 'xla'.
    rope: rotary positions, see `Rope`; the variant says what rotates.
    qk_norm: RMS norm of queries and keys before they rotate, with scales
      query_norm and key_norm: of each head, and where heads share queries or
      keys of these, before they are mixed or get embeddings.
    soft_cap: c, bounds each score s by c tanh(s / c) (arXiv 2408.00118).
    gate: the result of a head is multiplied by sigmoid(x Wg_h + bg_h) (arXiv
      2505.06708): by one number with 'head', by one for each of its dimensions
      with 'elementwise', or not at all with 'none'.
    window: w makes the layer causal, and hides from each query all keys but the
      w last: its own and those before.
    use_out_bias: whether the output projection has a bias, default use_bias.
    value_dims: widths V_h of the heads' values, one for each head, where each
      has values of its own: collab, mha. A head of width 0 adds nothing. By
      default all are d = qkv_features / H; sqrt(d) divides scores either way.
      Parameters and cache have sum V_h in the place of H V and no padding; the
      kernels, and an elementwise gate, pad to the widest head. value/kernel is
      [D, sum V_h], and out/kernel [sum V_h, out_features].
  """

  num_heads: int
  dtype: Any = None
  param_dtype: Any = jnp.float32
  qkv_features: int | None = None
  out_features: int | None = None
  broadcast_dropout: bool = True
  dropout_rate: float = 0.0
  deterministic: bool | None = None
  precision: Any = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  out_kernel_init: nn.initializers.Initializer | None = None
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  out_bias_init: nn.initializers.Initializer | None = None
  use_bias: bool = True
  _: dataclasses.KW_ONLY  # linen's attention_fn is here
  decode: bool = False
  normalize_qk: bool = False
  force_fp32_for_softmax: bool = False
  implementation: str | None = None
  rope: Rope | None = None
  qk_norm: bool = False
  soft_cap: float | None = None
  gate: str = 'none'
  window: int | None = None
  use_out_bias: bool | None = None
  value_dims: tuple[int, ...] | None = None

  # What a variant declares:

  # Where this is False the values are the keys, and the call takes no inputs_v.
  separate_values: ClassVar[bool] = True
  # Those of the fields in OPTIONAL that the variant obeys. normalize_qk needs
  # queries and keys of one projection each; for the others `heads` calls
  # `normalize`, `rotate` and `values`.
  takes: ClassVar[tuple[str, ...]] = ()
  # Whether `read` needs the keys' positions under rope: the cache keeps them.
  reads_positions: ClassVar[bool] = False
  # The axes of the variant's parameters, by patterns of their names, as in
  # collab/models/axes.py. Devices may split `heads` and `groups`, and each has
  # whole what all heads share.
  axes: ClassVar[dict[str, str]] = {}
  # Whether `read` mixes tokens. Then the layer does not decode, and its mask
  # may only have key_valid: keys and values that it hides are zeros in `read`.
  mixes_tokens: ClassVar[bool] = False

  def __post_init__(self):
    super().__post_init__()
    check(type(self), vars(self))


# Only values of fields with these types are checked.
_TYPES = {
  int: numbers.Integral,
  int | None: numbers.Integral | None,
  float: numbers.Real,
  float | None: numbers.Real | None,
  bool: bool | np.bool_,
  bool | None: bool | np.bool_ | None,
  str: str,
  str | None: str | None,
  Rope | None: Rope | None,
}
NAMES = dict(
  implementation=(None, 'xla', 'cudnn', 'splash'),
  gate=('none', 'head', 'elementwise'),
)
SIZES = 2**31  # what XLA's indices reach
OPTIONAL = ('normalize_qk', 'qk_norm', 'rope', 'value_dims')


def check(layer: type, values: Mapping) -> None:
  """Refuses values of the wrong type or out of range.

  Args:
    layer: class of the layer.
    values: {name: value}. Names that are no field, and fields of any other type
      than in _TYPES, are not checked.

  Raises:
    TypeError: a value is not the number, bool or string that the class
      declares; a bool is not a number.
    ValueError: dropout_rate is not in [0, 1), a float is not finite, a width or
      a window is out of range, there is no such implementation or gate,
      value_dims are no widths of the heads, or the layer has a field that its
      variant does not obey or another field excludes.
  """
  for field in dataclasses.fields(layer):
    name, kind = field.name, field.type
    if name not in values or kind not in _TYPES:
      continue
    value = values[name]
    wrong = not isinstance(value, _TYPES[kind])
    # In Python a bool is also an integer.
    if wrong or (isinstance(value, bool) and kind not in (bool, bool | None)):
      expected = inspect.formatannotation(kind)
      raise TypeError(f'{name}={value!r}; expected {expected}.')
    if value not in NAMES.get(name, [value]):
      legal = ', '.join(map(repr, NAMES[name]))
      raise ValueError(f'{name}={value!r}; expected one of {legal}.')
    if name == 'dropout_rate' and not 0 <= value < 1:
      raise ValueError(f'{name}={value!r}; expected at least 0, below 1.')
    real = value is not None and kind in (float, float | None)
    if real and not math.isfinite(value):
      raise ValueError(f'{name}={value!r}; expected a finite number.')
    if name == 'soft_cap' and value is not None and value <= 0:
      raise ValueError(f'{name}={value!r}; expected more than 0.')
    if name == 'window' and value is not None and not 1 <= value < SIZES:
      raise ValueError(f'{name}={value!r}; expected at least 1, below {SIZES}.')
    is_width = name.endswith('_features') and value is not None
    if is_width and not 0 <= value < SIZES:
      raise ValueError(
        f'{name}={value!r}; expected at least 0, the default, below {SIZES}.'
      )
  if layer.mixes_tokens and (values.get('decode') or values.get('window')):
    raise ValueError(
      f'{layer.__name__} mixes keys of all places, so it does not decode, and '
      'has no window.'
    )
  if (widths := values.get('value_dims')) is not None:
    _check_widths(widths, values['num_heads'])
  given = [name for name in OPTIONAL if values.get(name)]
  for name in given:
    if name not in layer.takes:
      has = ', '.join(layer.takes) or 'none'
      raise ValueError(
        f'{layer.__name__} has no {name}; of {", ".join(OPTIONAL)} it has '
        f'{has}.'
      )
  for name in ('qk_norm', 'rope'):
    if 'normalize_qk' in given and name in given:
      raise ValueError(
        f'normalize_qk and {name} exclude each other: the LayerNorm comes '
        'after all else. With rope, take qk_norm.'
      )


def _check_widths(widths, H):
  """Refuses value_dims that are not a width for each head, in sum above 0."""
  counts = isinstance(widths, tuple) and all(
    isinstance(n, numbers.Integral) and not isinstance(n, bool) and n >= 0
    for n in widths
  )
  if not counts or len(widths) != H or not sum(widths):
    raise ValueError(
      f'value_dims={widths!r}; expected a tuple of num_heads={H} widths of at '
      'least 0, and one above 0.'
    )
