"""Real pictures above generated ones of the same labels, for a page of the documentation.

python docs/figures/real_and_generated.py RUN DATA PICTURE
"""

import sys

import numpy as np

import sfumato
from sfumato import data, picture

run, source, path = sys.argv[1:]
model = sfumato.load(run)
images = data.gather(data.open_source(source))
labels = [i % len(model.labels) for i in range(20)]
order = np.random.default_rng(0).permutation(len(images))
chosen = [next(i for i in order[100 * k :] if images.labels[i] == label) for k, label in enumerate(labels)]
real = images.array[chosen].transpose(0, 2, 3, 1)
picture.save_png(path, picture.sheet({"real": real, "generated": model.sample(20, seed=0, label=labels)}, columns=10))
