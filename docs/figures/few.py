"""The same noise in few steps, by rule and tuned, and in many: python docs/figures/few.py RUN PICTURE"""

import sys

import numpy as np

import sfumato
from sfumato import few, picture
from sfumato.run import Run

run, path = Run.existing(sys.argv[1]), sys.argv[2]
model, rows = sfumato.load(run), {}
solver = few.tunable(model.config.solver)
many = model.sample(16, steps=100, solver="unipc")
for steps in (2, 3, 4, 5):
    for name, times in {"by rule": None, "tuned": few.times(model, run, steps, solver)}.items():
        rows[f"{steps}, {name}"] = model.sample(16, steps=steps, times=times, solver=solver)
        distance = np.sqrt(np.square((rows[f"{steps}, {name}"].astype(float) - many) / 127.5).mean())
        print(f"{steps} steps {name:8} {distance:.3f}")
rows["100"] = many
picture.save_png(path, picture.sheet({name: model.displayed(row) for name, row in rows.items()}, columns=16))
