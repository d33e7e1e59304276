# SPDX-License-Identifier: Apache-2.0
"""Downloads checkpoints of the Hugging Face Hub by name, as org/model."""

import pathlib
import re

from collab import checks
from collab.convert.huggingface import folders

# What `folders` reads; neither pickles nor code.
WANTED = (folders.CONFIG, 'model*.safetensors', *folders.COMPANIONS)


def is_name(path: pathlib.Path) -> bool:
  """Whether a path is like a name of the Hub, and not of anything here."""
  like = re.fullmatch(r'\w[\w.-]*/\w[\w.-]*', str(path))
  return bool(like) and not path.exists() and not path.parent.exists()


def download(name: str) -> pathlib.Path:
  """Returns the folder of a model, in the cache of huggingface_hub.

  Raises:
    ValueError: huggingface_hub is not installed, or it finds no such model.
  """
  try:
    import huggingface_hub
  except ImportError as error:
    raise ValueError(
      f'{name} is no folder here. To get the model of this name: pip install '
      f'huggingface_hub; or, on another machine with it, hf download {name} '
      '--local-dir=DIR.'
    ) from error
  # It raises any kind of error; many have several lines.
  with checks.located(f'{name} is no folder here; from the Hub', Exception):
    folder = huggingface_hub.snapshot_download(name, allow_patterns=[*WANTED])
  return pathlib.Path(folder)
