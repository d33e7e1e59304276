# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Train a model and look inside
#
# A small language model trains for 200 steps on Python's own help, which takes
# two minutes on one core. Then it writes, and shows what its heads look at and
# what they have in common.

# %%
import pathlib
import subprocess
import sys
import tempfile

import matplotlib.pyplot as plt

import collab
from collab.analysis import redundancy

folder = pathlib.Path(tempfile.mkdtemp())
workdir = folder / 'run'

# %% [markdown]
# This is the command `collab train`. Any field of the config can be changed.

# %%
command = [sys.executable, '-m', 'collab', 'train']
command += ['--config=configs/lm.py:sample', f'--workdir={workdir}']
command += ['--config.total_steps=200', '--config.optim.warmup_steps=20']
subprocess.run(command, check=True)

# %% [markdown]
# The workdir holds the model with its tokenizer. The first call compiles.

# %%
run = collab.load(str(workdir))
print(*run.generate(['The statement', 'A class'], length=20, seed=1), sep='\n')

# %% [markdown]
# ## What heads look at
#
# A row is a token that looks, a column one that it sees. The model is causal,
# so there is nothing above the diagonal. Ġ is a space.

# %%
maps = run.attention_maps('The function returns a list of the names.')
name, weights = list(maps.weights.items())[-1]  # [H, T, S]
figure, axes = plt.subplots(
  1, len(weights), figsize=(14, 4), sharey=True, layout='constrained'
)
for h, (axis, weight) in enumerate(zip(axes, weights, strict=True)):
  axis.imshow(weight, cmap='viridis', vmin=0)
  axis.set_xticks(range(len(maps.tokens)), maps.tokens, rotation=90)
  axis.set_yticks(range(len(maps.tokens)), maps.tokens)
  axis.set_title(f'{name}, head {h}', fontsize=8)

# %% [markdown]
# ## What heads have in common
#
# The tables say how many components hold 90, 95 and 99 % of the energy of a
# head's scores, and of all heads' queries and keys together. If all heads
# together need fewer than as many Gaussian ones, they share directions, which
# collaborative attention stores once. After 200 steps the weights themselves
# hardly differ from Gaussian ones. What they do with inputs of the text does.
# The last table is what the hidden states lose without a head.

# %%
report, *pictures = redundancy.analyse(
  str(workdir), 'train', str(folder / 'redundancy')
)
print(report.read_text())
print(*pictures, sep='\n')
