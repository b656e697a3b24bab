"""The sweeps of the paper's figures that are on disk: every preset with the longest sweep of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfrun.config import conf_dir, parse_width
from mfrun.errors import UserError
from mfrun.runs.directory import SWEEP, find_runs, load_yaml, read_sweep
from mfrun.study.curves import Curve, alike, describe, is_limit, load, settings_of, unseen_loss

# Sweeps of a preset on other data than the paper's, by the name of their folder: what they are on, how that is made.
VARIANTS = {
    "fig11_untrained": (
        "features of an untrained VGG16",
        "mfrun data cifar10_vgg16 dataset.weights=untrained dataset.size=64",
    ),
    "fig11_cnn": (
        "features of a CNN trained here",
        "mfrun export RUN --features 7 --out features.npz, with RUN a network of Figure 12",
    ),
}


@dataclass(eq=False)
class Figure:
    """A preset and the sweep of it, if there is one.

    Attributes:
        name: of the preset, or of a variant.
        folder: the sweep; None where it was not run.
        typed: the words of the sweep, by key, and of those in folders of its own, which are a part of it.
        curves: of its runs.
        notes: what keeps the sweep from being whole.
    """

    name: str
    folder: Path | None = None
    typed: list[dict[str, str]] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def preset(self) -> Path:
        """Its file."""
        return conf_dir() / "figure" / f"{self.name.split('_')[0] if self.name in VARIANTS else self.name}.yaml"

    @property
    def title(self) -> str:
        """Of the preset, and what a variant is on."""
        title = str(load_yaml(self.preset).title)
        return f"{title.split(':')[0]} on {VARIANTS[self.name][0]}" if self.name in VARIANTS else title

    @property
    def command(self) -> str:
        """The words that name it to ``mfrun sweep``."""
        return f"+figure={self.preset.stem}"

    def steps(self) -> int:
        """Of the preset in full."""
        return int(self._of_preset("steps"))

    def widths(self) -> list[float]:
        """Of the preset, the limit among them."""
        return [parse_width(w) for w in self._of_preset("widths")]

    def _of_preset(self, key: str) -> Any:
        """A key of the preset, or of the one that it builds on."""
        file = self.preset
        while key not in (node := load_yaml(file)):
            file = file.with_stem(str(node.defaults[0]))
        return node[key]

    def step(self) -> int:
        """The last step of the shortest curve, of those that claims are about: real networks, and the limit."""
        about = [c for c in self.curves if not c.neurons] or self.curves
        return min(int(c.times().index[-1]) for c in about)

    def told(self) -> tuple[bool, int, int, int]:
        """How much there is to see: several widths or one (of which nothing can be compared), steps, curves, and the
        steps of all curves together."""
        together = sum(int(c.times().index[-1]) for c in self.curves)
        return len({c.width for c in self.curves}) > 1, self.step(), len(self.curves), together

    def settings(self) -> list[tuple[str, list[Curve]]]:
        """The curves of each setting beside the width."""
        found: dict[str, list[Curve]] = {}
        for curve in self.curves:
            found.setdefault(describe(curve.setting), []).append(curve)
        return list(found.items())

    def beside(self) -> list[tuple[str, list[Curve]]]:
        """The same, where real networks are a part of each setting of what stands for others beside them."""
        return [(describe(s), alike(self.curves, s)) for s in settings_of(self.curves)]

    def widest(self) -> list[float]:
        """The largest real width, and the limit."""
        return [*sorted(c.width for c in self.curves if not is_limit(c) and c.neurons is None)[-1:], math.inf]

    def loss(self) -> str:
        """The loss that is compared: of the population, or of the test set."""
        return unseen_loss(self.curves)

    def error(self) -> str:
        """The error beside it."""
        return self.loss().replace("_loss", "_error")


def find(root: Path) -> dict[str, Figure]:
    """Every preset and variant, with the sweep below a folder that tells most: of several widths, the longest."""
    names = sorted([f.stem for f in (conf_dir() / "figure").glob("*.yaml")] + list(VARIANTS), key=_order)
    figures = {name: Figure(name) for name in names}
    for file in sorted(root.rglob(SWEEP)) if root.is_dir() else []:
        overrides = _typed(file.parent)
        name = file.parent.name if file.parent.name in VARIANTS else overrides.get("figure")
        inside = any((up / SWEEP).exists() for up in file.parent.parents if up.is_relative_to(root))
        if name not in figures or inside or "perturbed" in overrides:  # A prediction is no sweep of the figure.
            continue
        try:
            curves, _ = load([str(file.parent)], latest=False)
        except UserError:
            continue
        parts = [_typed(part.parent) for part in sorted(file.parent.glob("*/**/" + SWEEP))]
        found = Figure(name, file.parent, [overrides, *parts], curves)
        states = {str(run.path.relative_to(file.parent)): run.status()["state"] for run in find_runs(file.parent)}
        found.notes = [f"{run}: {state}" for run, state in states.items() if state != "finished"]
        if figures[name].folder is None or found.told() > figures[name].told():
            figures[name] = found
    return figures


def _typed(folder: Path) -> dict[str, str]:
    """The words of a sweep, by key."""
    return dict(word.split("=", 1) for word in (read_sweep(folder) or {})["overrides"])


def _order(name: str) -> tuple[int, bool, str]:
    """Figures by number; the top row before the bottom one."""
    number = re.match(r"fig(\d+)", name)
    return (int(number[1]) if number else 0, "bottom" in name, name)
