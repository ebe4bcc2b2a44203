"""Handwritten digits out of noise: train, draw, look. What `make demo` does, in Python.

python examples/02_digits.py [IMAGES] [RUN]
"""

import sys

import sfumato

images = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
run = sys.argv[2] if len(sys.argv) > 2 else "runs/digits"

model = sfumato.train("digits", run, images=images, batch=64)  # the same call again resumes

model.grid(64).save(f"{run}/grid.png")  # 64 samples, labels drawn as often as the data has them
model.strip(seed=3).save(f"{run}/strip.png")  # one digit on its way from noise
threes = model.sample(8, seed=1, label="3", guidance=2.0)  # (8, 8, 8, 1) uint8
print(f"{run}/grid.png, {run}/strip.png; {len(threes)} threes of mean {threes.mean():.0f}")
