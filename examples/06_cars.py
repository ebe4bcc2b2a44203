# %% [markdown]
# # Cars after two epochs, and which weights to draw from
# The account: Stanford Cars at 64 pixels, a U-Net of 62 million parameters, T = 300, L1, two epochs. Training stops in full
# motion: whose weights shall be drawn from? `06_cars.py DATA` runs it in full, `DATA quick` takes seconds.

# %%
import sys

import rich

import sfumato
from sfumato import config, data, nets, picture, recipes, scenes

typed = [] if "ipykernel" in sys.modules else sys.argv[1:]  # in a notebook the words there are not ours
DATA, quick = (typed or ["stanford-cars"])[0], "quick" in typed[1:]
run = sfumato.run.Run.of("runs/cars" + "-quick" * quick)
small = dict(size=16, net="unet:width=8", images=4, batch=2, sampling_steps=2, held_out=0, precision="float32") if quick else {}
settings = config.with_options(recipes.recipe("cars"), small)
keep = lambda name, drawn: picture.save_png(run.out / f"{name}.png", drawn) or drawn  # which a notebook shows
picture.make_room(run.out)

# %% [markdown]
# Look first, for samples show what the data shows. Why T = 300: by the published betas the eye has lost the car at the last
# step. Over thousands of pixels an SNR of 0.05 still tells a light picture from a dark one, so the recipe mends them.
# %%
images = data.gather(data.open_source(DATA), settings.size, settings.channels)
keep("data", scenes.contact(images))
# %%
keep("noise", scenes.forward(scenes.named_schedule("linear:steps=300"), scenes.image(DATA, settings, 3), "0,75,150,225,299"))

# %% [markdown]
# Most parameters sit where the picture is smallest, for there the network is widest. The loss falls within a hundred steps and
# then creeps: it is a mean over all levels of noise, and few of them matter to the eye.
# %%
rich.print(nets.table(nets.trace(nets.build(settings.net.name, images.shape[0], **settings.net.kw), images.shape)))
averaged = sfumato.train(DATA, run.path, recipe="cars", **small)
keep("loss", scenes.losses([run], by="step"))

# %% [markdown]
# Half of the steps on, a sample is still 3.4 parts of noise to one of picture, yet its colours and places are settled.
# %%
_, states, halfway = scenes.drawn(averaged, 64, 0, averaged.times(averaged.config.sampling_steps), [None], all_steps=True)
keep("samples", picture.grid(states[-1]))
# %%
picture.gif([state[0] for state in states], run.out / "denoising.gif")
keep("denoising", averaged.strip())
keep("halfway", picture.pairs(halfway, states[-1]))

# %% [markdown]
# The question, from the same noise in both rows. At a constant learning rate the last weights waver from step to step about a
# good place; an average over the steps lies nearer to it. A quick run has too few steps to show it.
# %%
rows = {"raw": sfumato.load(run.path, weights="model"), "averaged": averaged}
keep("question", picture.sheet({name: model.displayed(model.sample(16)) for name, model in rows.items()}, columns=8))
print(f"Look at {run.out}")
