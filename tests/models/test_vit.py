# SPDX-License-Identifier: Apache-2.0
"""Properties of the vision transformer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import accounting, models
from tests.models import small
from tests.models.small import ATTENTION, D

B, S, P, C, K = 3, 15, 5, 2, 7


def make(name='mha', outputs=K, **fields):
  default = dict(patch=P, dim=D, num_layers=2, mlp_dim=17)
  default |= dict(outputs=outputs, image_size=S, channels=C)
  return models.build('vit', attention=ATTENTION[name], **default | fields)


@functools.cache
def parameters(model):
  return small.parameters(model, images())


def images(side=S):
  x = np.random.default_rng(0).normal(size=(B, side, side, C))
  return dict(images=x.astype(np.float32))


@pytest.mark.parametrize(
  'num_layers, fields, expected',
  [
    (12, dict(name='mha'), 86_567_656),
    (12, dict(name='collab', shared_dim=768), 86_770_408),
    (12, dict(name='collab', shared_dim=512), 82_014_952),
    (12, dict(name='collab', shared_dim=384), 79_637_224),
    (12, dict(name='collab', shared_dim=256), 77_259_496),
    (12, dict(name='collab', shared_dim=128), 74_881_768),
    (12, dict(name='collab', shared_dim=64), 73_692_904),
    (3, dict(name='mha'), 22_776_808),
    (3, dict(name='mha', key_features=384), 21_005_032),
    (3, dict(name='mha', key_features=192), 20_119_144),
    (3, dict(name='mha', key_features=96), 19_676_200),
    (3, dict(name='collab', shared_dim=384), 21_044_200),
    (3, dict(name='collab', shared_dim=192), 20_152_552),
    (3, dict(name='collab', shared_dim=96), 19_706_728),
  ],
)
def test_published_parameter_counts(num_layers, fields, expected):
  """DeiT-B, and of 3 layers: MHA, concatenate, collaborative."""
  model = models.build(
    'vit',
    outputs=1000,
    image_size=224,
    num_layers=num_layers,
    attention=dict(num_heads=12) | fields,
  )
  batch = dict(images=jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
  tree = small.shapes(model, batch)
  assert accounting.size(tree) == expected
  layer = accounting.size(tree['encoder']['layer_0']['self_attention'])
  assert accounting.attention_parameters(model) == num_layers * layer


def test_patches_are_a_convolution():
  """The dense layer of the patches, whose kernel is that of a convolution."""
  model = make()
  params = parameters(model)
  _, seen = jax.jit(functools.partial(model.apply, capture_intermediates=True))(
    {'params': params}, images()
  )
  got = seen['intermediates']['patch']['__call__'][0]
  kernel = params['patch']['kernel'].reshape(P, P, C, D)
  want = jax.lax.conv_general_dilated(
    images()['images'],
    kernel,
    (P, P),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  want = want.reshape(B, (S // P) ** 2, D) + params['patch']['bias'][None, None]
  small.close(got, want)


def test_order_of_patches_matters_by_positions_alone():
  batch, params = images(), parameters(make())
  rows = np.arange(S).reshape(-1, P)[[2, 0, 1]].ravel()  # whole patches
  turned = dict(images=batch['images'][:, rows])
  none = jax.tree.map(jnp.zeros_like, params['positions'])
  for tree, matters in ((params, True), (params | dict(positions=none), False)):
    logits = small.apply(make(), tree, batch)
    assert logits.shape == (B, K)
    distance = np.abs(logits - small.apply(make(), tree, turned)).max()
    assert (distance > 1e-4) == matters


@pytest.mark.parametrize('distillation', ['none', 'token', 'head'])
def test_what_heads_read(distillation):
  """The class token, and DeiT's second one if it has a head; else nothing."""
  model = make(distillation=distillation)
  bare = make(outputs=0, distillation=distillation)
  params = parameters(model)
  heads = {k: params[k] for k in ('head', 'distilled_head') if k in params}
  assert len(heads) == 1 + (distillation == 'head')
  body = {k: x for k, x in params.items() if k not in heads}
  x = small.apply(bare, body, images())
  assert x.shape == (B, 1 + (distillation != 'none') + (S // P) ** 2, D)
  logits = [
    x[:, n] @ head['kernel'] + head['bias'][None]
    for n, head in enumerate(heads.values())
  ]
  small.close(small.apply(model, params, images()), sum(logits) / len(logits))


def test_no_class_is_likelier_at_first():
  model = make(num_layers=1)
  logits = jax.jit(lambda key: model.init_with_output(key, images())[0])
  np.testing.assert_array_equal(logits(jax.random.key(0)), np.zeros((B, K)))


@pytest.mark.parametrize('name', ['mhe_add', 'mhe_mul', 'el'])
def test_images_do_not_see_each_other(name):
  model, batch = make(name), images()
  params = parameters(model)
  logits = small.apply(model, params, batch)
  other = batch['images'].copy()
  other[1:] = 0
  there = small.apply(model, params, dict(images=other))
  small.close(logits[0], there[0], 1e-5)
  assert np.abs(logits[1:] - there[1:]).max() > 0.01


def test_drop_path_scan_and_remat():
  """Off without a key; with one, the same in a scan and with remat."""
  plain, batch, key = make(), images(), jax.random.key(3)
  params = parameters(plain)
  want = small.apply(plain, params, batch, key)
  fields = dict(drop_path=0.5, scan=True)
  small.close(small.apply(make(**fields), params, batch), want)
  dropped = small.apply(make(**fields), params, batch, key)
  assert np.abs(dropped - want).max() > 0.01
  both = small.apply(make(remat='full', **fields), params, batch, key)
  small.close(both, dropped)


@pytest.mark.parametrize(
  'fields, side, message',
  [
    ({}, 10, 'Images are 10 x 10 x 2, expected image_size and channels: 15'),
    (dict(patch=4), S, 'patch=4 does not divide image_size=15'),
    (dict(patch=0), S, 'model.patch=0; expected at least 1'),
    (
      dict(distillation='x'),
      S,
      "distillation='x' is none of none, token, head",
    ),
  ],
)
def test_impossible_sizes(fields, side, message):
  with pytest.raises(ValueError, match=message):
    small.shapes(make(**fields), images(side))


def test_class_token_and_mean_of_patches():
  """What the head reads, without the distillation token."""
  model = make(pool='class_mean', distillation='token')
  params = parameters(model)
  x = small.apply(make(outputs=0, distillation='token'), params, images())
  read = np.concatenate([x[:, 0], x[:, 2:].mean(1)], -1)
  want = read @ params['head']['kernel'] + params['head']['bias'][None]
  small.close(small.apply(model, params, images()), want, 1e-5)
  with pytest.raises(ValueError, match="pool='x' is none of class, class_mean"):
    small.shapes(make(pool='x'), images())
