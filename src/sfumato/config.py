"""What a run is made of: a typed, validated description that JSON holds and command-line flags spell.

`Config` is what a person chooses; its fields are the flags of `sfumato train`. `Facts` is what was measured or found when
the run began. Together they are `config.json`, and all that is needed to rebuild the model.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints, overload

import msgspec
from tyro.conf import DisallowNone, Suppress

from . import flags, schedules
from .denoisers import C_NOISE, ROWS
from .errors import UserError, unknown
from .flags import CHOICE, COUNT, ENDS, LEVELS, NUMBER, SIZE, TIME, WINDOW
from .losses import DISTANCES, WEIGHTS
from .rates import RATES
from .samplers import SOLVERS
from .spec import Spec, choose, make

SCHEMA = 1


Count = Annotated[int, msgspec.Meta(ge=1), COUNT]
MaybeCount = Annotated[Annotated[int, msgspec.Meta(ge=1)] | None, COUNT]
MaybeZero = Annotated[Annotated[int, msgspec.Meta(ge=0)] | None, COUNT]
Seconds = Annotated[Annotated[float, msgspec.Meta(gt=0, le=1e12)] | None, TIME]
MaybeChoice = Annotated[Spec | None, CHOICE]
MaybePositive = Annotated[Annotated[float, msgspec.Meta(gt=0, le=1e12)] | None, NUMBER]
Channels = Annotated[Annotated[int, msgspec.Meta(ge=1, le=64)] | None, COUNT]
Side = Annotated[int, msgspec.Meta(ge=4, le=1024)]
Pixels = Annotated[int, msgspec.Meta(ge=0, lt=1024), COUNT]
Size = Annotated[tuple[Side, Side] | None, SIZE]
End = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
Ends = Annotated[tuple[End, End] | None, ENDS]
Levels = Annotated[tuple[float, float] | None, LEVELS]  # where the second may be infinite
Window = Annotated[tuple[float, Annotated[float, msgspec.Meta(gt=0)]] | None, WINDOW]
Choice = Annotated[Spec, CHOICE]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e12), NUMBER]
Guidance = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6), NUMBER]
Share = Annotated[float, msgspec.Meta(ge=0, le=1), NUMBER]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32), COUNT]


# ---- the description -------------------------------------------------------------------------------------------------


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was found in the data and measured on the machine when a run began."""

    data: str  # where the pictures came from
    fingerprint: str  # of all pictures and labels
    train: int  # how many pictures are trained on; 0 where the weights were imported
    held_out: int
    shape: tuple[int, int, int]  # (C, H, W)
    codec: dict[str, Any]  # low, high, dtype, ends
    sigma_data: float  # standard deviation of x0
    label_names: tuple[str, ...] | None = None
    label_counts: tuple[int, ...] | None = None
    precision: str = "float32"
    channels_last: bool = False
    by_layer: bool = False  # convolutions choose their memory layout
    compiled: bool = False  # for training
    machine: str = ""
    start: str = ""  # the run whose weights training began from


NOISY, SAMPLING_STEPS = Spec("dpmpp_2m_sde"), 20  # the default solver
FEWER = ((12, Spec("dpmpp_2m")), (SAMPLING_STEPS, Spec("dpmpp_2m_sde", eta=0.5)))  # in its place below so many steps


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person chooses. None means: from the data, by a rule that is printed."""

    size: Size = None
    """Height and width that pictures are brought to, as 64 or 64x128."""
    channels: Channels = None
    """1 (gray) or 3 (colour); found in the data unless said."""
    fit: str = "crop"
    """How other shapes are brought to size: crop, pad or stretch."""
    cut_bottom: Pixels = 0
    """Rows that are cut off at the bottom of every file first, 20 for FGVC-Aircraft, where a line of text stands."""
    range: Ends = None
    """What the network sees for the lowest and the highest value; -1,1 unless said."""
    only_class: str | None = None
    """Train on this class alone, or on several, as in ship,truck; which pictures are held out does not change."""
    flip: DisallowNone[bool | None] = None
    """Mirror half of the pictures left to right; by a printed rule unless said."""
    flip_vertical: bool = False
    """Mirror half of the pictures top to bottom."""
    rotate: bool = False
    """Turn the pictures by 0, 90, 180 or 270 degrees, all equally often; square ones only."""
    translate: Pixels = 0
    """Shift the pictures by up to so many pixels in each direction; edges are repeated."""
    augment: Share = 0.0
    """Share, 0.12 as a rule, of mirrors, turns and shifts each that the network is told of, so that samples show none."""
    crop: Size = None
    """Windows of this height and width are cut at random from the pictures, anew each time; samples have this size."""
    strict: bool = False
    """Refuse to train while a file cannot be read, rather than leave it out."""
    group: str | None = None
    """Regular expression on the paths: pictures in which it finds the same stay on one side of the split."""
    window: Window = None
    """Level and width at which DICOM and NIfTI are shown, in their units, as in 40,400; as the files say unless said."""
    held_out: Annotated[float, msgspec.Meta(ge=0, le=0.2), NUMBER] = 0.05
    """Share of the pictures held out where the data has no test folder, at most 0.2 (but at least 64 pictures); 0: none."""

    net: MaybeChoice = None
    """Network, as in unet:width=96,patch=1,mults=(1,2,2), of those in docs/networks.md; by a printed rule unless said."""
    schedule: MaybeChoice = None
    """Noise schedule, as in linear:steps=1000; edm, its ends by a printed rule, unless said."""
    shift: Positive = 1.0
    """Noise of the schedule, as a multiple: how much wider the pictures are than those it was made for."""
    predict: str = "edm"
    """What the network predicts: noise, image, v, flow or edm; docs/objectives.md has what goes with each."""
    c_noise: str | None = None
    """How the network is told the noise level: log_snr, steps or time; as it was made for unless said."""
    weight: MaybeChoice = None
    """Weight of the loss by noise level: simple, image, v, flow, edm, min_snr, soft_min_snr or p2, as in min_snr:g=5; that
    which goes with what is predicted, by a printed rule, unless said."""
    distance: Choice = Spec("l2")
    """Distance of the loss: l2, l1 or huber."""
    uncertainty: bool = False
    """Divide the loss by what is expected of it at each noise level, which is learned beside the network."""
    variance_weight: Annotated[float, msgspec.Meta(ge=0, le=1e12), NUMBER] = 0.0
    """Weight of the bound that teaches the network the variance of ddpm's steps, 0.001 as a rule; 0: none is learned."""
    times: MaybeChoice = None
    """Density of the training times: uniform, steps, log_normal or logit_normal; by a printed rule unless said."""
    label_dropout: Share = 0.1
    """Share of the pictures whose label is withheld, so that guidance works."""

    batch: MaybeCount = None
    """Pictures in one step; by a printed rule unless said."""
    accumulate: Count = 1
    """Parts that a batch is worked through in, one after another, to save memory."""
    lr: MaybePositive = None
    """Learning rate; by a printed rule unless said."""
    rate: Choice = Spec("cosine")
    """How it goes on after the warm-up: cosine (to 0 at the end), staircase (by epoch), inverse_sqrt or constant."""
    warmup: MaybeZero = None
    """Images over which the rate rises from 0; a fiftieth of the budget unless said."""
    optimizer: Choice = Spec("adamw")
    """adam, adamw or muon, as in adamw:weight_decay=0.05."""
    clip: MaybePositive = 1.0
    """Largest norm of the gradient; none: no limit."""
    ema: MaybeCount = None
    """Half-life, in images, of the average of the weights that is sampled from; a twentieth of the budget unless said. At
    first it is shorter: half of the images seen (a twentieth, by rule)."""

    posthoc: Annotated[int, msgspec.Meta(ge=0, le=1000), COUNT] = 0
    """Snapshots, evenly over the budget, of two averages that `sample --ema 0.08` makes any other of, such as 16; 0: none."""

    images: MaybeCount = None
    """Budget: images seen in all."""
    epochs: MaybePositive = None
    """Budget, in passes over the data."""
    steps: MaybeCount = None
    """Budget, in optimizer steps."""
    time: Seconds = None
    """Budget, as in 10m or 2h: turned into images by the speed of training steps, measured first."""

    seed: Seed = 0
    """Decides every random number of the run."""
    precision: str = "auto"
    """float32, bfloat16, or auto: whichever is measured to be faster here."""
    compile: str = "auto"
    """Train compiled code (torch.compile): on, off, or auto: where the time it is measured to save exceeds what it takes."""
    checkpointing: bool = False
    """Keep of each block what goes in alone and compute the rest again: the same result with less memory, in more time."""
    checkpoint_every: MaybeCount = None
    """Images between checkpoints; else every 10 minutes, and where --keep-older wants one."""
    keep: Count = 2
    """How many of the newest checkpoints are kept, besides the best."""
    keep_older: MaybeCount = None
    """Also keep a checkpoint that is older than the newest by so many images, at least, and by twice as many at most."""
    best: str = "loss"
    """What the best checkpoint is chosen by: the held-out loss, or kernel, the distance of samples to held-out pictures."""
    stop_when: str | None = None
    """plateau: end when the held-out loss has fallen by less than half a percent over a third of the images seen."""
    strip_every: MaybeCount = None
    """Images between strips of one sample coming out of noise."""
    log_every: MaybeCount = None
    """Images between lines of the log; a 200th of the budget unless said."""

    solver: Choice = NOISY
    """Of grids while training, and the default afterwards; in fewer than 20 steps with less noise, unless eta is said."""
    sampling_steps: Count = SAMPLING_STEPS
    """Steps of that solver."""
    guidance: Guidance = 1.5
    """Guidance of the same towards labels, where the network is told them: 1 is none, more is more typical of them."""
    interval: Ends = (0.2, 3.0)
    """Noise levels, sigma / alpha, between which guidance works; none: everywhere."""

    facts: Suppress[Facts | None] = None
    schema: Suppress[int] = SCHEMA

    def solver_of(self, steps: int | None = None) -> Spec:
        """The solver for so many steps, `sampling_steps` unless said, where none is named.

        What noise blurs later steps must mend: in fewer than 20 the default solver adds half of it, in fewer than 12 none
        (measured in docs/solvers.md). A solver with options, or another one, is taken as it stands.
        """
        chosen, steps = Spec.of(self.solver), self.sampling_steps if steps is None else steps
        return next((fewer for most, fewer in FEWER if chosen == NOISY and steps < most), chosen)


class Settled(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Config in which nothing is left to a rule but the budget: what a network is trained by, and what a run keeps."""

    net: Choice = Spec("unet")  # this and what follows is what is meant by a run that does not say it
    schedule: Choice = Spec("edm")
    weight: Choice = Spec("edm")
    times: Choice = Spec("log_normal")
    batch: Count = 128
    lr: Positive = 1e-3
    guidance: Guidance = 1.0
    interval: Ends = None

    @property
    def half_life(self) -> int:
        """Images after which what a weight was counts half in the average."""
        return self.ema or max(self.batch, (self.images or 0) // 20)


C = TypeVar("C", bound=Config)


# Fields that may change when a run is resumed; all others decide the trajectory or the model.
BUDGET = ("images", "epochs", "steps", "time")
FREE = (
    *(*BUDGET, "checkpoint_every", "keep", "keep_older", "best", "stop_when", "strip_every", "log_every"),
    *("precision", "compile", "checkpointing", "solver", "sampling_steps", "guidance", "interval"),
    *("facts", "schema"),
)

_TABLES: dict[str, tuple[str, Iterable[str]]] = {
    "predict": ("parameterization", ROWS),
    "c_noise": ("c_noise", C_NOISE),
    "precision": ("precision", ("auto", "float32", "bfloat16")),
    "compile": ("choice for compiling called", ("auto", "on", "off")),
    "best": ("measure of the best checkpoint called", ("loss", "kernel")),
    "stop_when": ("reason to stop called", ("plateau",)),
    "fit": ("fit", ("crop", "pad", "stretch")),
}
_SPECS: dict[str, tuple[str, Mapping[str, Callable]]] = {
    "schedule": ("schedule", schedules.SCHEDULES),
    "weight": ("weight", WEIGHTS),
    "distance": ("distance", DISTANCES),
    "times": ("density of training times", schedules.DENSITIES),
    "rate": ("rate", RATES),
    "solver": ("solver", SOLVERS),
}


def builtins(config: Config) -> dict[str, Any]:
    """The JSON form."""
    return msgspec.to_builtins(config, enc_hook=lambda value: value.builtins())


@overload
def checked(config: Config | dict[str, Any], kind: type[C]) -> C: ...
@overload
def checked(config: C) -> C: ...
@overload
def checked(config: dict[str, Any]) -> Config: ...
def checked(config: Config | dict[str, Any], kind: type[Config] | None = None) -> Config:
    """A Config whose bounds and names have been checked, from a Config or from its JSON form; raises UserError.

    kind    Config or Settled; that of the config unless said
    Values may also stand as text, as they are typed: images="500k", size="64x128" or 64, net="unet:width=96".
    """
    kind = kind or (type(config) if isinstance(config, Config) else Config)
    config = convert(flags.read(Config, builtins(config) if isinstance(config, Config) else config), kind)
    if config.schema > SCHEMA:
        raise UserError(f"This run was written by a newer version (schema {config.schema}, known is {SCHEMA}); upgrade.")
    for name, (what, names) in _TABLES.items():
        if getattr(config, name) not in [*names, None]:
            raise unknown(what, getattr(config, name), names)
    for name, (what, table) in _SPECS.items():
        if (spec := getattr(config, name)) is not None:
            choose(table, spec, what)
    given = [name for name in BUDGET if getattr(config, name) is not None]
    stored = config.facts is not None  # a run keeps what was typed beside the images that it became
    if len(given) > 1 and not (stored and "images" in given and len(given) == 2):
        raise UserError(f"One budget is enough; found {' and '.join(given)}.")
    if config.batch is not None and config.accumulate > config.batch:
        raise UserError(f"A batch of {config.batch} cannot be worked through in {config.accumulate} parts.")
    return config


def convert(raw: dict[str, Any], kind: type[C]) -> C:
    """The Config or Settled of a JSON form, its types and bounds checked; raises UserError."""
    try:
        return msgspec.convert(raw, kind, dec_hook=lambda _, value: Spec.of(value))
    except msgspec.ValidationError as error:
        raise UserError(_plainly(str(error), raw)) from None


def with_options(config: C, options: Mapping[str, Any]) -> C:
    """The config with other values in some fields, which may stand as text; raises UserError for fields there are not."""
    raw = builtins(config)
    for name in options.keys() - raw.keys():
        raise unknown("setting", name, raw)
    return convert(flags.read(Config, raw | dict(options)), type(config))


def _plainly(error: str, raw: dict[str, Any]) -> str:
    """What msgspec says of a field, as a person would: the field, what was expected, what was found."""
    text, _, path = error.partition(" - at `$.")
    text = text.partition(", got ")[0].replace(" | null`", "`").rstrip(".")
    words = {"`int`": "a whole number", "`float`": "a number", "`bool`": "true or false", "`str`": "a text"}
    for theirs, ours in words.items():
        text = text.replace(theirs, ours)
    field = path.rstrip("`").partition("[")[0].partition(".")[0]
    if field not in raw:
        return f"{text}."
    found = "x".join(map(str, raw[field])) if field in ("size", "crop") and isinstance(raw[field], list | tuple) else raw[field]
    return f"{field} does not fit: {text[0].lower()}{text[1:]}, found {found}."


def spelt(config: Config) -> dict[str, str]:
    """Each setting as it is typed, by its name."""
    out, plain = {}, {None: "none", True: "yes", False: "no"}
    for name, hint in get_type_hints(Config, include_extras=True).items():
        value, marks = getattr(config, name), (m for m in getattr(hint, "__metadata__", ()) if isinstance(m, flags.Flag))
        if name not in ("facts", "schema"):
            out[name] = next((mark.str_from_instance(value)[0] for mark in marks), plain.get(value, str(value)))
    return out


def build_schedule(config: Config) -> schedules.Schedule:
    """The schedule of a config; raises UserError for options that it refuses."""
    return make(schedules.SCHEDULES, config.schedule or Spec("edm"), "schedule").shifted(config.shift)


def to_json(config: Config) -> str:
    return json.dumps(builtins(config), indent=2) + "\n"


def from_json(text: str) -> Settled:
    """The config of a run; raises UserError if the text is not one."""
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"The file is not JSON: {error}.") from None
    if not isinstance(raw, dict):
        raise UserError("A config is a JSON object.")
    return checked(raw, Settled)
