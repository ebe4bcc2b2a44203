"""Real pictures above those that one or several runs draw from the same noise, for a page of the documentation.

python docs/figures/real_and_generated.py DATA PICTURE RUN[:SAMPLES] [RUN ...]

Where a run was told labels, all pictures of a column have the same. Mean and deviation of the values are printed, of 64
samples (or so many) and of the data as they were trained on.
"""

import sys
from pathlib import Path

import numpy as np

import sfumato
from sfumato import picture, trainer

source, path, *runs = sys.argv[1:]
counts = {run.partition(":")[0]: int(run.partition(":")[2] or 64) for run in runs}
models = {Path(run).name: sfumato.load(run) for run in counts}
images = trainer.prepare(source, list(models.values())[-1].config).train  # as the last run has them
classes = len(images.label_names or ())
order = np.random.default_rng(0).permutation(len(images))
chosen = [
    next(i for i in np.roll(order, -(len(order) // 20) * k) if not classes or images.labels[i] == k % classes)
    for k in range(20)
]
rows = {"real": images.take(chosen).transpose(0, 2, 3, 1)}  # (N, H, W, C)
some = images.take(np.sort(order[:2000])) / 255
print(f"real: {some.mean():.3f} +- {some.std():.3f} of 0 to 1")
for (name, model), count in zip(models.items(), counts.values(), strict=True):
    told = dict(label=[k % classes for k in range(count)]) if model.labels else {}
    drawn = model.sample(count, seed=0, **told)
    rows[name] = drawn[:20]
    print(f"{name}: {(drawn / 255).mean():.3f} +- {(drawn / 255).std():.3f}, {count} samples")
picture.save_png(path, picture.sheet(rows, columns=10))
