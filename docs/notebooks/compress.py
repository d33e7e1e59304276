# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Compress a pretrained encoder
#
# Every attention layer of a text encoder becomes collaborative attention with
# fewer parameters, without training. MODEL is a folder with a checkpoint of
# Transformers or its name on the Hugging Face Hub, which is downloaded once.

# %%
import os
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import collab
from collab import accounting
from collab.convert.__main__ import main as convert
from collab.data.samples import prose

MODEL = os.environ.get('MODEL', 'sentence-transformers/all-MiniLM-L6-v2')
SHARES = 0.7, 0.5  # of the attention's parameters
folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# The conversion looks at texts, so that it keeps what the model does with
# them. Take some of the kind that you will embed. Here they are lines of
# Python's help.

# %%
lines = [line.strip() for line in prose.lines('train')]
texts = folder / 'texts.txt'
texts.write_text('\n'.join(x for x in lines if len(x.split()) > 5), 'utf-8')

# %% [markdown]
# A budget is divided over the keys of all layers and the values of all heads.
# With 6 layers a conversion takes about a minute. This is `collab convert`.

# %%
for share in SHARES:
  options = '--attention=collab', f'--budget=parameters={share}'
  options += f'--calibration={texts}', '--rows=200'
  convert([MODEL, str(folder / str(share)), *options])

# %% [markdown]
# The compressed models embed texts that neither conversion nor training saw.
# The cosine to the original's embedding says what is left of it. An index that
# was made with the original needs a high one.

# %%
unseen = [x.strip() for x in prose.lines('test') if len(x.split()) > 5][:100]
original = collab.load(MODEL)
want = original.encode(unseen)
whole = accounting.attention_parameters(original.model)
cosines = []
for share in SHARES:
  run = collab.load(str(folder / str(share)))
  got = run.encode(unseen)
  norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
  cosines.append((got * want).sum(1) / norms)
  left = accounting.attention_parameters(run.model) / whole
  print(f'{left:.2f} of the parameters: cosine {cosines[-1].mean():.3f}')

# %%
figure, axis = plt.subplots(figsize=(5, 3), layout='constrained')
axis.boxplot(cosines, tick_labels=SHARES)
axis.set_xlabel("share of the attention's parameters")
axis.set_ylabel('cosine to the original')
