# %% [markdown]
# # Aircraft, from the network of the cars
# The account: FGVC-Aircraft at 64 pixels, the 62 million parameters and T = 300 of the cars, 4,000 epochs. What changes with
# the data alone? `07_aircraft.py DATA` runs it in full, which wants a GPU; `DATA quick` takes seconds.

# %%
import sys

import rich

import sfumato
from sfumato import config, data, nets, picture, recipes, scenes, trainer

typed = [] if "ipykernel" in sys.modules else sys.argv[1:]  # in a notebook the words there are not ours
DATA, quick = (typed or ["fgvc-aircraft-2013b/data/images"])[0], "quick" in typed[1:]
cars, run = (sfumato.run.Run.of(f"runs/{name}" + "-quick" * quick) for name in ("cars", "aircraft"))
cut = 20 if "fgvc" in DATA.lower() else 0  # only there
small = dict(size=16, net="unet:width=8", images=4, batch=2, sampling_steps=2, held_out=0, precision="float32") if quick else {}
settings = config.with_options(recipes.recipe("aircraft"), small)
keep = lambda name, drawn: picture.save_png(run.out / f"{name}.png", drawn) or drawn  # which a notebook shows
picture.make_room(run.out)

# %% [markdown]
# Every file of FGVC ends in 20 rows with its copyright, the one thing that all of them share, and that samples would have too.
# Here are the lowest quarters of some pictures with and without those rows; pictures from elsewhere lose nothing.
# %%
cuts = {rows: config.with_options(settings, {"cut_bottom": rows}) for rows in sorted({0, cut})}
read = {rows: data.gather(trainer.opened(DATA, each), each.size, each.channels) for rows, each in cuts.items()}
lowest = lambda images: picture.to_uint8(images.take(range(4))[:, :, -images.shape[1] // 4 :].transpose(0, 2, 3, 1))
keep("cut", picture.sheet({f"{rows} rows cut": lowest(images) for rows, images in read.items()}, scale=256 // settings.size[0]))
# %%
keep("data", scenes.contact(read[cut]))

# %% [markdown]
# Mended betas reach noise in any number of steps; T only says how finely the way is cut, and 300 is fine enough. The shapes are
# those of the cars, to the last parameter: nothing in a network knows its subject.
# %%
keep("noise", scenes.forward(config.build_schedule(settings), scenes.image(DATA, cuts[cut], 3), "0,75,150,225,299"))
# %%
rich.print(nets.table(nets.trace(nets.build(settings.net.name, 3, **settings.net.kw), read[cut].shape)))
model = sfumato.train(DATA, run.path, recipe="aircraft", cut_bottom=cut, **small)
_, states, halfway = scenes.drawn(model, 64, 0, model.times(model.config.sampling_steps), [None], all_steps=True)
picture.gif([state[0] for state in states], run.out / "denoising.gif")
keep("samples", picture.grid(states[-1]))
# %%
keep("denoising", model.strip())
keep("halfway", picture.pairs(halfway, states[-1]))

# %% [markdown]
# The question, if 06_cars.py was run before: what does the same noise become in both? All that differs is what was looked at.
# %%
runs = [each for each in (cars, run) if each.started]
keep("loss", scenes.losses(runs, by="step"))
# %%
models = {each.path.name: sfumato.load(each.path) for each in runs}
keep("question", picture.sheet({name: each.displayed(each.sample(8)) for name, each in models.items()}))
print(f"Look at {run.out}")
