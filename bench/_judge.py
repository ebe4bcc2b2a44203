"""How far a model's samples are from pictures that its training held out, and what they are taken for."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.judge.drawn import Drawn, drawn
from sfumato.judge.features import chosen, extract, features, reference
from sfumato.judge.metrics import frechet, manifold
from sfumato.model import Model
from sfumato.plan import Plan


class Judge:
    """Pictures held out, in the features of a network of the project's own that was trained on the training part, once."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.seen = features("own", plan)
        self.there = reference(self.seen, plan, held_out=True)
        self.about = f"{self.seen.about} {len(self.there):,} held-out pictures."

    def drawn(self, model: Model, n: int, **options: Any) -> Drawn:
        """Samples of seed 0, those drawn before from the model's folder; options as in `Model.sample`."""
        assert model.path is not None
        see = lambda part: extract(self.seen, part, model.codec)
        return drawn(model, see, self.seen.name, n, 0, Path(model.path) / "evaluation", **options)

    def distance(self, found: np.ndarray) -> dict[str, float]:
        """The Frechet distance of features (N, D), and its standard error."""
        at = frechet.estimates(found, self.there)[0]
        assert None not in (at.value, at.error), "too few to tell"
        return {"distance": float(at.value), "error": float(at.error)}  # type: ignore[arg-type]

    def shares(self, found: np.ndarray) -> dict[str, float]:
        """Precision and recall, density and coverage of features (N, D)."""
        return dict(zip(manifold.NAMES, map(float, manifold.shares(found, self.there)), strict=True))

    def floor(self, n: int) -> np.ndarray:
        """The features of n training pictures: what a model has that repeats them."""
        return reference(self.seen, self.plan, n=n)

    def classifier(self, n: int = 20_000) -> "Classifier":
        """Learned from n training pictures."""
        images = self.plan.train
        return Classifier(reference(self.seen, self.plan, n=n), self.labels(images, n), len(images.label_names or ()))

    def labels(self, images: Any, n: int | None = None) -> np.ndarray:
        """Of the pictures whose features `reference` gives."""
        return images.batch(chosen(images, n))["label"].numpy()


class Classifier:
    """Logistic regression on features: the class of each of (N, D)."""

    def __init__(self, found: np.ndarray, labels: np.ndarray, classes: int):
        x, y = torch.from_numpy(found).double(), torch.from_numpy(labels).long()
        self.mean, self.width = x.mean(0), x.std(0).clamp_min(1e-6)
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(x.shape[1], classes, dtype=torch.float64)
        optimizer = torch.optim.LBFGS(self.linear.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            logits = self.linear((x - self.mean) / self.width)
            total = torch.nn.functional.cross_entropy(logits, y) + 1e-3 * self.linear.weight.square().sum()
            total.backward()
            return total

        optimizer.step(loss)

    @torch.no_grad()
    def __call__(self, found: np.ndarray) -> np.ndarray:
        return self.linear((torch.from_numpy(found).double() - self.mean) / self.width).argmax(1).numpy()
