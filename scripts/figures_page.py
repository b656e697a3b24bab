#!/usr/bin/env python
"""Writes docs/figures.md: the paper's figures and claims beside what finished runs of the presets have measured.

    python scripts/figures_page.py [--runs outputs/figures] [--out docs/figures.md]

Takes every sweep of a preset (conf/figure/) below the folder, the longest of each, draws it, and says of each claim
what the runs show. What was not run says so; no number on the page comes from anywhere else.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mfrun.config import conf_dir
from mfrun.errors import UserError
from mfrun.runs.directory import SWEEP, find_runs, load_yaml, read_sweep
from mfrun.runs.status import duration
from mfrun.shell import options
from mfrun.study import plot
from mfrun.study.convergence import Fit, rms, study
from mfrun.study.curves import Curve, default_metrics, describe, is_limit, load

NOT_RUN = "not run"
HEAD = """\
# The paper's figures

Every figure of [arXiv 1902.02880](https://arxiv.org/abs/1902.02880) is a preset in `conf/figure/`, which quotes where
each of its numbers comes from and says which the paper leaves open. `mfrun sweep +figure=fig7` trains it, n = infinity
included, and `mfrun plot --latest` draws it. `budget=0.1` stops at a tenth of the steps and `widths=[...]` takes other
widths. `make figures` runs what a laptop can do in about an hour, with `SIZE=minutes` a little of every figure, with
`SIZE=full` every dense figure to its last step (many hours on two cores), `make figures-gpu` the presets as they are.
All go on where they were, and write this page from the longest run of each figure (`scripts/figures_page.py`). What was
not run says so.

## What the paper says of them

"Gap" is the root mean square distance of one network's loss to the reference's over the logarithmic grid of steps, and
r the rate in gap ~ n^-r with its 95 % interval, as `mfrun compare` has them. The paper compares finite widths with one
another, so the largest width is a reference beside n = infinity.
"""


@dataclass
class Figure:
    """A preset and the sweep of it, if there is one.

    Attributes:
        name: of the preset.
        folder: the sweep; None where it was not run.
        overrides: what was typed, by key.
        curves: of its runs.
        notes: what keeps the sweep from being whole.
    """

    name: str
    folder: Path | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return str(load_yaml(conf_dir() / "figure" / f"{self.name}.yaml").title)

    def steps(self) -> int:
        """Of the preset in full."""
        file = conf_dir() / "figure" / f"{self.name}.yaml"
        while "steps" not in (node := load_yaml(file)):
            file = file.with_stem(str(node.defaults[0]))
        return int(node.steps)

    def step(self) -> int:
        """The last step of the shortest curve."""
        return min(int(c.times().index[-1]) for c in self.curves)

    def settings(self) -> list[tuple[str, list[Curve]]]:
        """The curves of each setting beside the width."""
        found: dict[str, list[Curve]] = {}
        for curve in self.curves:
            found.setdefault(describe(curve.setting), []).append(curve)
        return list(found.items())

    def loss(self) -> str:
        """The loss that is compared: of the population, or of the test set."""
        return next(m for m in ("population_loss", "test_loss") if m in self.curves[0].metrics())

    def error(self) -> str:
        """The error beside it."""
        return self.loss().replace("_loss", "_error")


@dataclass
class Claim:
    """What the paper says, where, of which figures, and what of it the runs of one figure show.

    Attributes:
        measure: a line for a figure that was run.
    """

    words: str
    source: str
    figures: list[str]
    measure: Callable[[Figure], str]


def main() -> None:
    """Write the page and its pictures."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", default="outputs/figures", help="folder of the sweeps (outputs/figures)")
    p.add_argument("--out", default="docs/figures.md", help="the page; pictures go to a folder of its name")
    args = p.parse_args()
    out = Path(args.out)
    figures = find(Path(args.runs))
    pictures = out.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    for figure in figures.values():
        if figure.folder is not None:
            args = options.plot().parse_args([str(figure.folder), "--out", str(pictures / f"{figure.name}.png")])
            plot.main(args)
    out.write_text(page(figures, pictures.name))
    print(out)


def find(root: Path) -> dict[str, Figure]:
    """Every preset, with its longest sweep below a folder."""
    names = sorted((f.stem for f in (conf_dir() / "figure").glob("*.yaml")), key=_order)
    figures = {name: Figure(name) for name in names}
    for file in sorted(root.rglob(SWEEP)) if root.is_dir() else []:
        overrides = dict(w.split("=", 1) for w in (read_sweep(file.parent) or {})["overrides"])
        name = overrides.get("figure")
        if name not in figures:
            continue
        try:
            curves, _ = load([str(file.parent)], latest=False)
        except UserError:
            continue
        found = Figure(name, file.parent, overrides, curves)
        states = {run.path.name: run.status()["state"] for run in find_runs(file.parent)}
        found.notes = [f"{run}: {state}" for run, state in states.items() if state != "finished"]
        if figures[name].folder is None or found.step() > figures[name].step():
            figures[name] = found
    return figures


def page(figures: dict[str, Figure], pictures: str) -> str:
    """The page's text."""
    lines = [HEAD]
    for claim in CLAIMS:
        run = [figures[name] for name in claim.figures if figures[name].folder is not None]
        left = [name for name in claim.figures if figures[name].folder is None]
        lines += [f"### {claim.words} ({claim.source})", ""]
        if run:
            lines += ["| figure | steps | measured |", "|---|---|---|"]
            for f in run:
                lines.append(f"| [{f.name}](#{_anchor(f.title)}) | {f.step()} of {f.steps()} | {claim.measure(f)} |")
            lines.append("")
        if left:
            lines += [f"{NOT_RUN.capitalize()}: {', '.join(left)}.", ""]
    lines += ["## The figures"]
    for figure in figures.values():
        lines += ["", f"### {figure.title}", ""]
        if figure.folder is None:
            lines.append(f"`mfrun sweep +figure={figure.name}`: {NOT_RUN}.")
            continue
        lines += [f"    {command(figure)}", "", f"![{figure.title}]({pictures}/{figure.name}.png)", ""]
        lines += [final_values(figure), "", f"Time taken: {duration(seconds(figure))}, all runs one after another."]
        if other := data(figure):
            lines.append(f"Data: `{other}` in the place of the preset's.")
        if figure.notes:
            lines.append(f"Not finished: {', '.join(figure.notes)}.")
    return "\n".join(lines) + "\n"


def command(figure: Figure) -> str:
    """What was typed, without what concerns the machine."""
    typed = {k: v for k, v in figure.overrides.items() if k not in ("threads", "device", "keep_checkpoints")}
    if "dataset.path" in typed:
        typed["dataset.path"] = data(figure)
    words = [f"{'+' if key == 'figure' else ''}{key}={value}" for key, value in typed.items()]
    return " ".join(["mfrun sweep", *(w if re.fullmatch(r"[\w+=.,-]+", w) else shlex.quote(w) for w in words)])


def data(figure: Figure) -> str:
    """The file that took the place of the preset's data; empty where none did."""
    return Path(figure.overrides.get("dataset.path", "")).name


def seconds(figure: Figure) -> float:
    """Training and evaluation time of all runs together."""
    return sum(float(s.frame["wall_seconds"].max()) for c in figure.curves for s in c.sources)


def final_values(figure: Figure) -> str:
    """A table of the last row of every curve."""
    metrics = default_metrics(figure.curves)
    rows = []
    for setting, curves in figure.settings():
        for curve in curves:
            last = {m: curve.table(m).iloc[-1] for m in metrics}
            row = {"n": "infinity" if is_limit(curve) else curve.label} | ({"setting": setting} if setting else {})
            row |= {"step": str(curve.times().index[-1]), "networks": str(len(last[metrics[0]]))}
            for m, values in last.items():
                bar = curve.bar(m)
                row[m] = f"{values.mean():.4g}" + ("" if bar is None else f" +- {bar.iloc[-1]:.1g}")
            rows.append(row)
    frame = pd.DataFrame(rows)
    head = f"| {' | '.join(map(str, frame))} |\n|{'---|' * len(frame.columns)}\n"
    return head + "\n".join(f"| {' | '.join(map(str, row))} |" for row in frame.to_numpy())


# -- what is measured -------------------------------------------------------------------------------------------------


def matching(figure: Figure) -> str:
    """Gaps to the largest width and to the limit."""
    said = []
    for setting, curves in figure.settings():
        finite = [c for c in curves if not is_limit(c)]
        for some in (finite, curves if len(curves) > len(finite) else []):
            if len(some) < 2:
                continue
            s = study(some, figure.loss(), 0.05, absolute=False)
            gaps = ", ".join(f"{rms(g.of_one()):.2g} at n = {int(g.width)}" for g in s.gaps)
            of = f" [{setting}]" if setting else ""
            said.append(f"gap to n = {s.reference}{of}: {gaps}{_rate(s.fit_one)}")
    return "<br>".join(said) or "one width only"


def near_zero(figure: Figure) -> str:
    """The classification error at the end."""
    return f"classification error at the end {_each(figure, lambda c: f'{_last(c, figure.error()):.2g}')}"


def nonpositive(figure: Figure) -> str:
    """The share of non-positive pre-activations in layers l > 1, from the first row to the last."""

    def shares(curve: Curve) -> str:
        layers = [m for m in curve.metrics() if m.startswith("nonpositive_") and m != "nonpositive_1"]
        ends = [(curve.table(m).mean(axis=1).iloc[0], curve.table(m).mean(axis=1).iloc[-1]) for m in layers]
        return ", ".join(f"{100 * a:.1f} to {100 * b:.1f}" for a, b in ends)

    return f"% in layers 2, 3, ... {_each(figure, shares, only=_widest(figure))}"


def two_starts(figure: Figure) -> str:
    """The distance between the two settings of tau2, at step 0 and the largest over the run."""
    said = []
    by_width: dict[str, list[Curve]] = {}
    for curve in figure.curves:
        by_width.setdefault(curve.label, []).append(curve)
    for label, pair in by_width.items():
        if len(pair) == 2:
            one, other = (c.table(figure.loss()).mean(axis=1) for c in pair)
            apart = (one - other).abs().dropna()
            said.append(f"n = {label}: {apart.iloc[0]:.2g} and {apart.max():.2g}")
    return f"distance in loss at step 0 and at most, {'; '.join(said)}" if said else "one value of tau2 only"


def overfits(figure: Figure) -> str:
    """Where the test loss was least."""

    def valley(curve: Curve) -> str:
        loss = curve.table("test_loss").mean(axis=1)
        return f"{loss.min():.3g} at step {loss.idxmin()}, {loss.iloc[-1]:.3g} at the end"

    return f"least test loss {_each(figure, valley, only=_widest(figure))}"


def test_error(width: int) -> Callable[[Figure], str]:
    """The test error at the end of one width."""

    def measure(figure: Figure) -> str:
        there = [c for c in figure.curves if c.width == width]
        return f"{100 * _last(there[0], 'test_error'):.1f} % at n = {width}" if there else f"n = {width} {NOT_RUN}"

    return measure


def _each(figure: Figure, words: Callable[[Curve], str], only: list[float] | None = None) -> str:
    parts = []
    for setting, curves in figure.settings():
        of = f" [{setting}]" if setting else ""
        parts += [f"n = {c.label}{of}: {words(c)}" for c in curves if only is None or c.width in only]
    return "; ".join(parts)


def _widest(figure: Figure) -> list[float]:
    """The largest finite width, and the limit."""
    return [max(c.width for c in figure.curves if not is_limit(c)), math.inf]


def _last(curve: Curve, metric: str) -> float:
    return float(curve.table(metric).mean(axis=1).iloc[-1])


def _rate(f: Fit) -> str:
    if math.isnan(f.rate):
        return ""
    return f", r = {f.rate:.2f}" + (f" [{f.low:.2f}, {f.high:.2f}]" if f.source else "")


def _order(name: str) -> tuple[int, bool, str]:
    """Figures by number; the top row before the bottom one."""
    number = re.match(r"fig(\d+)", name)
    return (int(number[1]) if number else 0, "bottom" in name, name)


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


CLAIMS = [
    Claim(
        '"the curves become increasingly matching on the whole training period as n increases"',
        "Section 4.2.2",
        ["fig5_top", "fig5_bottom", "fig6a", "fig6b", "fig6c", "fig8a", "fig8b", "fig8c"],
        matching,
    ),
    Claim(
        '"the larger n, the better the curves match"',
        "Section 4.2.2",
        ["fig10a", "fig10b", "fig10c", "fig11"],
        matching,
    ),
    Claim('"the good match among the networks - the larger n, the better match"', "Appendix C", ["fig12"], matching),
    Claim('"close to zero classification error" on the Gaussians', "Section 4.2.2", ["fig5_top", "fig10a"], near_zero),
    Claim(
        'layers l > 1 are "initialized to be completely in the linear region of the ReLU"; at the end the number of '
        'non-positive pre-activations "amounts to a significant fraction"',
        "Section 4.2.2",
        ["fig5_top", "fig6a", "fig6b", "fig6c", "fig8a", "fig8b", "fig8c"],
        nonpositive,
    ),
    Claim(
        '"the value of tau2 does not affect the initial values", yet "the two initializations yield two different '
        'trajectories"',
        "Section 4.2.2",
        ["fig5_bottom", "fig7", "fig9"],
        two_starts,
    ),
    Claim('"the networks overfit in the CIFAR-10 task"', "Section 4.2.2", ["fig8a", "fig8b", "fig8c"], overfits),
    Claim('test error "of about 43%", 4 layers, n = 800', "Section 4.2.2", ["fig8b"], test_error(800)),
    Claim('test error "of about 14%" with VGG16 features, n = 800', "Section 4.2.2", ["fig11"], test_error(800)),
    Claim('test error "about 27%" of the CNN, n = 400', "Appendix C", ["fig12"], test_error(400)),
]


if __name__ == "__main__":
    main()
