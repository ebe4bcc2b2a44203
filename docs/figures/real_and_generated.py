"""Real pictures above those that one or several runs draw from the same noise, for a page of the documentation.

python docs/figures/real_and_generated.py DATA PICTURE RUN [RUN ...]

Where a run was told labels, all pictures of a column have the same. Mean and deviation of the values are printed, of 64
samples and of the data as they were trained on.
"""

import sys
from pathlib import Path

import numpy as np

import sfumato
from sfumato import data, picture

source, path, *runs = sys.argv[1:]
models = {Path(run).name: sfumato.load(run) for run in runs}
config = next(iter(models.values())).config
images = data.gather(data.open_source(source), config.size, config.channels, config.fit)
classes = len(images.label_names or ())
order = np.random.default_rng(0).permutation(len(images))
chosen = [next(i for i in np.roll(order, -100 * k) if not classes or images.labels[i] == k % classes) for k in range(20)]
rows = {"real": images.take(chosen).transpose(0, 2, 3, 1)}  # (N, H, W, C)
some = images.take(np.sort(order[:2000])) / 255
print(f"real: {some.mean():.3f} +- {some.std():.3f} of 0 to 1")
for name, model in models.items():
    told = dict(label=[k % classes for k in range(20)]) if model.labels else {}
    rows[name] = model.sample(20, seed=0, **told)
    drawn = model.sample(64, seed=0) / 255
    print(f"{name}: {drawn.mean():.3f} +- {drawn.std():.3f}")
picture.save_png(path, picture.sheet(rows, columns=10))
