# SPDX-License-Identifier: Apache-2.0
r"""Vision transformers: ImageNet, CIFAR, MNIST and Fashion-MNIST.

  python train.py --config=configs/vit_collab.py                # 8 devices
  python train.py --config=configs/vit_collab.py:imagenet,shared_dim=384 \
      --config.data.path=DIR            # DIR/train/CLASS/*, DIR/val/CLASS/*
  python train.py --config=configs/vit_mha.py:fashion_mnist,small \
      --config.data.path=DIR            # one CPU; idx files, plain or .gz
  python train.py --config=configs/vit_mha.py:sample      # bundled, a minute

Sub-tasks: imagenet (the default), cifar10, cifar100, mnist, fashion_mnist; from
TFDS unless data.path is given. Sizes: `sample` (scikit-learn's digits), `small`
(a model for one CPU), or none: of ImageNet the published recipe, of the others,
which the papers do not have, the recipe with a smaller model (our choice).

The recipe is that of DeiT-B: 300 epochs, AdamW with lr 1e-3 at batch 1024,
weight decay 0.05, cosine to 1e-5, 5 epochs of warm-up, label smoothing 0.1,
drop path 0.1, mixup 0.8, cutmix 1.0, two operations of RandAugment of
magnitude 9, always applied, erasing 0.25, parameter average (decay 0.99996).

'test' is what the set publishes to be evaluated last (of ImageNet the 50,000
"validation" images) and is used once; 'val' is held out of the training images
at equal distances: 10,000 of ImageNet, 5,000 of the others.

Parameters at 1,000 classes (published, arXiv 2006.16362; accuracies were not
recovered), at collaborative key widths 768 / 512 / 384 / 256 / 128 / 64:
  DeiT-B      86,567,656
    collab    86,770,408 / 82,014,952 / 79,637,224 / 77,259,496 / 74,881,768
              / 73,692,904
  3 layers    22,776,808
    key_features 384 / 192 / 96   21,005,032 / 20,119,144 / 19,676,200
    shared_dim   384 / 192 / 96   21,044,200 / 20,152,552 / 19,706,728
"""

from ml_collections import ConfigDict

from configs import attend, base, parse

# {sub-task: (training images, mean and deviation of their channels)}.
SUBTASKS = dict(
  imagenet=(1_271_167, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  cifar10=(45_000, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
  cifar100=(45_000, (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
  mnist=(55_000, (0.131,), (0.308,)),
  fashion_mnist=(55_000, (0.286,), (0.353,)),
)


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(argument, tuple(SUBTASKS))
  subtask = words.subtask
  imagenet = subtask == 'imagenet'
  images, mean, std = SUBTASKS[subtask]
  c = base()
  c.task = dict(
    name='image',  # a file of collab/tasks, or an import path
    label_smoothing=0.1,  # of the training loss
  )
  c.data = dict(
    corpus='imagenet2012' if imagenet else subtask,  # in TFDS
    path='',  # folder of local files instead
    held_out=10_000 if imagenet else 5_000,  # training images for val
    damaged='error',  # or 'skip' for images that do not decode
    image_size=224,  # side of the square images, in pixels
    batch_size=1024,  # images of an update
    mean=mean,  # of each channel
    std=std,  # deviation of each channel
    augment=dict(
      crop='resized',  # resized, padded, none
      padding=0,  # pixels around a 'padded' crop
      flip=True,  # whether half of the images are mirrored
      ops=2,  # operations of RandAugment
      magnitude=9.0,  # of these, 0 to 10
      erasing=0.25,  # probability that a rectangle becomes noise
      mixup=0.8,  # alpha of the mixed-in image's share; 0 for none
      cutmix=1.0,  # alpha of the share of the area; 0 for none
    ),
  )
  c.model.update(
    name='vit',
    patch=16,  # side of a patch, in pixels
    distillation='none',  # DeiT's second token: none, token, head
    num_layers=12,  # layers
    epsilon=1e-6,
    dropout=0.0,
    drop_path=0.1,  # rate at which the last layer is left out, others less
  )
  c.optim.update(lr=1e-3, schedule='cosine', end_lr=1e-5, b2=0.999, eps=1e-8)
  c.optim.update(weight_decay=0.05, clip=0.0, ema=0.99996)
  c.every = dict(log=100, eval=5000, checkpoint=5000)
  c.checkpoint.update(keep=2, best='val/top1', final='last')
  train_for(c, images, epochs=300, warmup=5)
  if not imagenet:
    few_pixels(c, subtask)
  resize(c, subtask, words.size, images)
  return attend(c, words)


def train_for(c: ConfigDict, images: int, epochs: int, warmup: int) -> None:
  """Sets the steps of training and of warm-up from epochs."""
  c.total_steps = epochs * images // c.data.batch_size
  c.optim.warmup_steps = warmup * images // c.data.batch_size


def few_pixels(c: ConfigDict, subtask: str) -> None:
  """Changes the recipe to images of 28 x 28 or 32 x 32 pixels."""
  digits = subtask == 'mnist'  # a mirrored digit is not a digit
  c.data.image_size = 28 if 'mnist' in subtask else 32
  c.data.augment.update(crop='padded', padding=4, flip=not digits)
  c.model.update(patch=4, dim=384, mlp_dim=1536, attention=dict(num_heads=6))
  c.optim.ema = 0.999
  c.every.update(eval=1000, checkpoint=1000)


def resize(c: ConfigDict, subtask: str, size: str, images: int) -> None:
  """Changes model and training to a smaller size, if one is given."""
  plain = dict(ops=0, erasing=0.0, mixup=0.0, cutmix=0.0)
  if size == 'sample':
    c.data.update(corpus='sample', image_size=8, batch_size=64)
    c.data.update(mean=(0.305,), std=(0.376,))
    c.data.augment.update(plain, crop='padded', padding=1, flip=False)
    c.model.update(patch=2, dim=64, num_layers=3, mlp_dim=192, drop_path=0.0)
    c.model.attention.num_heads = 4
    c.optim.update(lr=3e-3, warmup_steps=50, ema=0.0)
    c.update(total_steps=800, every=dict(log=50, eval=200, checkpoint=100))
    c.checkpoint.update(keep=3, average=2)
  elif size == 'small':
    c.data.batch_size = 128
    c.data.augment.update(plain)
    c.model.update(dim=128, num_layers=4, mlp_dim=384, drop_path=0.0)
    c.model.update(activation='gelu_tanh', attention=dict(num_heads=4))
    if subtask == 'imagenet':
      c.data.image_size, c.model.patch = 64, 8
    elif 'mnist' in subtask:  # digits are centred, so 16 patches suffice
      c.data.augment.padding, c.model.patch = 1, 7
    else:
      c.data.augment.padding = 2
    c.optim.update(name='muon', lr=3e-3, ema=0.0)
    train_for(c, images, epochs=15, warmup=1)
    c.every.update(log=100, eval=1000, checkpoint=500)
    c.checkpoint.update(keep=3, average=2)
