# %% [markdown]
# # Ten kinds of things, then ships alone
# The account: CIFAR-10 at 32 pixels, a U-Net of 33 million parameters, T = 1000, 15 epochs, then 10 on the ships. What does a
# model keep that goes on with one class? `08_cifar10.py DATA` runs both, `DATA quick` takes seconds.

# %%
import sys

import numpy as np
import rich

import sfumato
from sfumato import config, data, nets, picture, recipes, scenes

typed = [] if "ipykernel" in sys.modules else sys.argv[1:]  # in a notebook the words there are not ours
DATA, quick = (typed or ["cifar10"])[0], "quick" in typed[1:]
run, tuned = (sfumato.run.Run.of(f"runs/cifar10{end}" + "-quick" * quick) for end in ("", "-one-class"))
small = dict(size=16, images=4, batch=2, sampling_steps=2, held_out=0, precision="float32") if quick else {}
net = dict(net="unet:width=8") if quick else {}  # apart, for the second training takes the network of the first
settings = config.with_options(recipes.recipe("cifar10"), small | net)
keep = lambda name, drawn: picture.save_png(run.out / f"{name}.png", drawn) or drawn  # which a notebook shows
picture.make_room(run.out)

# %% [markdown]
# Look first, for samples show what the data shows: here ten kinds, and the network is not told which. T = 1000 is the one T of
# the five accounts at which their betas reach noise: the SNR ends at 4e-5, and nothing need be mended.
# %%
images = data.gather(data.open_source(DATA), settings.size, settings.channels)
keep("data", scenes.contact(images))
# %%
keep("noise", scenes.forward(config.build_schedule(settings), scenes.image(DATA, settings, 3), "0,200,400,600,800,999"))

# %% [markdown]
# No layer is for one kind: all ten share all weights, which is why a fine-tune on one of them can begin from all.
# %%
rich.print(nets.table(nets.trace(nets.build(settings.net.name, images.shape[0], **settings.net.kw), images.shape)))
before = sfumato.train(DATA, run.path, recipe="cifar10", **small | net)

# %% [markdown]
# Half of the steps on, a sample is still 3.4 parts of noise to one of picture, yet its colours and places are settled.
# %%
_, states, halfway = scenes.drawn(before, 64, 0, before.times(before.config.sampling_steps), [None], all_steps=True)
keep("samples", picture.grid(states[-1]))
# %%
picture.gif([state[0] for state in states], run.out / "denoising.gif")
keep("denoising", before.strip())
keep("halfway", picture.pairs(halfway, states[-1]))

# %% [markdown]
# The question, from the same noise in two rows: do colours, places, subjects stay? Without ships it is the first class.
# %%
only = "ship" if "ship" in images.label_names else images.label_names[0]
after = sfumato.train(DATA, tuned.path, recipe="cifar10-ship", start=run.path, only_class=only, **small)
keep("loss", scenes.losses([run, tuned], by="step"))
rows = {name: model.displayed(model.sample(8)) for name, model in {"before": before, "after": after}.items()}
real = images.take(np.flatnonzero(images.labels == images.label_names.index(only))[:8]).transpose(0, 2, 3, 1)
keep("question", picture.sheet(rows | {f"real: {only}": picture.to_uint8(real)}))
print(f"Look at {run.out}")
