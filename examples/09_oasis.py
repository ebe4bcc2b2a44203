# %% [markdown]
# # Brains in gray, at 64 pixels and at 128
# The account: OASIS brain slices, a max-pooling U-Net of 31 million parameters, T = 600, L1, 205 epochs. How does gray stay
# gray, and what do more pixels cost? `09_oasis.py DATA` trains at both sizes, `DATA quick` takes seconds.

# %%
import sys

import rich

import sfumato
from sfumato import config, data, nets, picture, recipes, scenes

typed = [] if "ipykernel" in sys.modules else sys.argv[1:]  # in a notebook the words there are not ours
DATA, quick = (typed or ["keras_png_slices"])[0], "quick" in typed[1:]
sides = (16, 32) if quick else (64, 128)
small = dict(images=4, batch=2, sampling_steps=2, held_out=0, precision="float32") if quick else {}
net = dict(net="unet:width=8") if quick else {}  # apart, for the second training takes the network of the first
settings = config.with_options(recipes.recipe("oasis"), small | net | {"size": sides[1]})
coarse, run = (sfumato.run.Run.of(f"runs/oasis-{side}") for side in sides)
keep = lambda name, drawn: picture.save_png(run.out / f"{name}.png", drawn) or drawn  # which a notebook shows
picture.make_room(run.out)

# %% [markdown]
# Gray slices saved as RGB and read as three channels are learned as three, and what these err apart is a tint: the account's
# brains were pink. Why T = 600: by the published betas a skull outlasts step 240, and the last step is nearly noise.
# %%
images = data.gather(data.open_source(DATA), settings.size, settings.channels)
keep("data", scenes.contact(images))
# %%
keep("noise", scenes.forward(scenes.named_schedule("linear:steps=600"), scenes.image(DATA, settings, 3), "0,120,240,360,599"))

# %% [markdown]
# The shapes at both sizes: twice the side is four times the work in every block, and not one parameter more. That is why the
# finer model can begin from the weights of the coarser one.
# %%
for side in sides:
    rich.print(nets.table(nets.trace(nets.build(settings.net.name, 1, **settings.net.kw), (1, side, side))))
first = sfumato.train(DATA, coarse.path, recipe="oasis", size=sides[0], **small | net)
model = sfumato.train(DATA, run.path, recipe="oasis", start=coarse.path, size=sides[1], **small)
keep("loss", scenes.losses([coarse, run], by="step"))

# %% [markdown]
# Half of the steps on, a sample is still 3.4 parts of noise to one of picture, yet its outline is settled.
# %%
_, states, halfway = scenes.drawn(model, 64, 0, model.times(model.config.sampling_steps), [None], all_steps=True)
keep("samples", picture.grid(states[-1]))
# %%
picture.gif([state[0] for state in states], run.out / "denoising.gif")
keep("denoising", model.strip())
keep("halfway", picture.pairs(halfway, states[-1]))

# %% [markdown]
# The question, with samples of (H, W, 1) in both rows: how much of a brain fits into 64 pixels a side?
# %%
keep("question", picture.sheet({f"{m.facts.shape[-1]} pixels": m.displayed(m.sample(8)) for m in (first, model)}))
print(f"Look at {run.out}; samples are {states[-1].shape[1:]}")
