# %% [markdown]
# # Clothes in gray, and where a noise schedule ends
# The account: Fashion-MNIST at 28 pixels, a ConvNeXt U-Net of 3 million parameters, T = 200, ten epochs. Its betas stop short
# of noise: what does that do to samples? `05_fashion_mnist.py DATA` trains twice to see it, `DATA quick` takes seconds.

# %%
import sys

import rich

import sfumato
from sfumato import config, data, nets, picture, recipes, scenes

typed = [] if "ipykernel" in sys.modules else sys.argv[1:]  # in a notebook the words there are not ours
DATA, quick = (typed or ["fashion-mnist"])[0], "quick" in typed[1:]
run, other = (sfumato.run.Run.of(f"runs/fashion-mnist{end}" + "-quick" * quick) for end in ("", "-faithful"))
small = dict(size=16, net="unet:width=8", images=4, batch=2, sampling_steps=2, held_out=0, precision="float32") if quick else {}
settings = config.with_options(recipes.recipe("fashion-mnist"), small)
keep = lambda name, drawn: picture.save_png(run.out / f"{name}.png", drawn) or drawn  # which a notebook shows
picture.make_room(run.out)

# %% [markdown]
# Look first, for samples show what the data shows. In 200 steps the published betas come to an SNR of 0.15, where a boot can
# still be made out: for them T is too small. Mended, the same 200 steps reach noise.
# %%
images = data.gather(data.open_source(DATA), settings.size, settings.channels)
keep("data", scenes.contact(images))
# %%
betas = {"published": "linear:steps=200", "mended": "linear:steps=200,mended=true"}
for name, beta in betas.items():
    keep(f"noise-{name}", scenes.forward(scenes.named_schedule(beta), scenes.image(DATA, settings, 3), "0,50,100,150,199"))
keep("schedules", picture.schedule_plot([*betas], *scenes.courses([*betas.values()]), images.shape[1:]))

# %% [markdown]
# The two losses are means over different levels of noise: the lower one need not be that of the better model.
# %%
rich.print(nets.table(nets.trace(nets.build(settings.net.name, images.shape[0], **settings.net.kw), images.shape)))
mended = sfumato.train(DATA, run.path, recipe="fashion-mnist", **small)
published = sfumato.train(DATA, other.path, recipe="fashion-mnist", faithful=True, **small)
keep("loss", scenes.losses([run, other], by="step"))

# %% [markdown]
# Half of the steps on, a sample is still 3.4 parts of noise to one of picture, yet its outline is settled.
# %%
_, states, halfway = scenes.drawn(mended, 64, 0, mended.times(mended.config.sampling_steps), [None], all_steps=True)
keep("samples", picture.grid(states[-1]))
# %%
picture.gif([state[0] for state in states], run.out / "denoising.gif")
keep("denoising", mended.strip())
keep("halfway", picture.pairs(halfway, states[-1]))

# %% [markdown]
# The question, from the same noise in both rows: sampling by the published betas starts where training never was.
# %%
rows = {"published": published, "mended": mended}
keep("question", picture.sheet({name: model.displayed(model.sample(16)) for name, model in rows.items()}, columns=8))
print(f"Look at {run.out}")
