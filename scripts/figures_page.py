#!/usr/bin/env python
"""Writes docs/figures.md: the paper's figures and claims beside what finished runs of the presets have measured.

    python scripts/figures_page.py [--runs outputs/figures] [--out docs/figures.md]

Takes every sweep of a preset (conf/figure/) below the folder, the longest of each, draws it, and says of each claim
what the runs show. What was not run says so; no number on the page comes from anywhere else.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pandas as pd
from figures_claims import CLAIMS, falls, references
from figures_runs import Figure, find

from mfrun.config import stood_label
from mfrun.runs.status import duration
from mfrun.shell import options
from mfrun.study import plot
from mfrun.study.curves import default_metrics, is_limit

NOT_RUN = "not run"
HEAD = """\
# The paper's figures

Every figure of [arXiv 1902.02880](https://arxiv.org/abs/1902.02880) with learning curves (1, 5 to 12) is a preset in
`conf/figure/`, which quotes where each of its numbers comes from and says which the paper leaves open. `mfrun sweep +figure=fig7` trains it, n = infinity
included, and `mfrun plot --latest` draws it. `budget=0.1` stops at a tenth of the steps and `widths=[...]` takes other
widths. `make figures` runs what two cores do in over an hour, with `SIZE=minutes` a little of every figure, with
`SIZE=full` every dense figure to its last step (many hours on two cores), `make figures-gpu` the presets as they are.
All go on where they were, and write this page from the longest run of each figure (`scripts/figures_page.py`). What was
not run says so.

## What the paper says of them

"Gap" is the root mean square distance of one network's loss to the reference's over the logarithmic grid of steps, and
r the rate in gap ~ n^-r with its 95 % interval, as `mfrun compare` has them. The paper compares finite widths with one
another, so the largest width is a reference beside n = infinity. A verdict is *confirmed* where r > 0 beyond its
interval and the widest network stays within 5 % of the loss's range of the reference, or *up to* the step where it
leaves or the run ends; "close to zero" is taken as below 1 %, "a significant fraction" as above 5 %, "about" as within
1 % and the sampling error; *not seen* is what a run that was cut short may still show, *undecided* what its interval
leaves open.
"""


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
            words = [str(figure.folder), "--out", str(pictures / f"{figure.name}.png"), "--title", figure.title]
            predicted = Path(args.runs) / "predicted" / figure.name
            words += ["--predict", str(predicted)] if predicted.exists() else []
            plot.main(options.plot().parse_args(words))
    out.write_text(page(figures, pictures.name))
    print(out)


def page(figures: dict[str, Figure], pictures: str) -> str:
    """The page's text."""
    lines = [HEAD]
    for claim in CLAIMS:
        run = [figures[name] for name in claim.figures if figures[name].folder is not None]
        left = [name for name in claim.figures if figures[name].folder is None]
        lines += [f"### {claim.words} ({claim.source})", ""]
        if run:
            lines += ["| figure | steps | measured | verdict |", "|---|---|---|---|"]
            for f in run:
                found = claim.measure(f)
                steps = f"{f.step()} of {f.steps()}"
                lines.append(f"| [{f.name}](#{_anchor(f.title)}) | {steps} | {found.measured} | {found.verdict} |")
            lines.append("")
        if left:
            lines += [f"{NOT_RUN.capitalize()}: {', '.join(left)}.", ""]
    lines += ["## What n = infinity changes of these readings", "", *changed(figures), "", "## The figures"]
    for figure in figures.values():
        lines += ["", f"### {figure.title}", ""]
        if figure.folder is None:
            lines.append(f"`mfrun sweep {figure.command}`: {NOT_RUN}.")
            continue
        lines += [
            *(f"    {command(words)}" for words in figure.typed),
            "",
            f"![{figure.title}]({pictures}/{figure.name}.png)",
            "",
        ]
        lines += [final_values(figure), "", f"Time taken: {duration(seconds(figure))}, all runs one after another."]
        if other := data(figure):
            lines.append(f"Data: `{other}` in the place of the preset's.")
        if figure.notes:
            lines.append(f"Not finished: {', '.join(figure.notes)}.")
    return "\n".join(lines) + "\n"


def changed(figures: dict[str, Figure]) -> list[str]:
    """The figures whose finite widths agree with one another for longer, or more surely, than with the limit."""
    rows = []
    for figure in figures.values():
        if figure.folder is None:
            continue
        found: dict[str, dict[str, str]] = {}
        for setting, kind, s in references(figure):
            found.setdefault(setting, {})[kind] = falls(s, figure)
        for setting, of in found.items():
            # Why something is undecided may differ without the reading being another.
            if len(of) == 2 and len({verdict.split(" (")[0] for verdict in of.values()}) == 2:
                name = f"[{figure.name}](#{_anchor(figure.title)})" + (f" [{setting}]" if setting else "")
                rows.append(f"| {name} | {' | '.join(of.values())} |")
    if not rows:
        return ["Nothing: wherever both were run, the widths agree with the limit as they do with one another."]
    head = (
        'Where the verdict on "increasingly matching" changes as the limit, in the place of the largest width, becomes '
        "the reference:"
    )
    return [head, "", "| figure | among widths | with n = inf |", "|---|---|---|", *rows]


def command(words_by_key: dict[str, str]) -> str:
    """What was typed, without what concerns the machine."""
    typed = {k: v for k, v in words_by_key.items() if k not in ("threads", "device", "keep_checkpoints")}
    if path := typed.get("dataset.path"):
        typed["dataset.path"] = Path(path).name
    words = [f"{'+' if key == 'figure' else ''}{key}={value}" for key, value in typed.items()]
    return " ".join(["mfrun sweep", *(w if re.fullmatch(r"[\w+=.,-]+", w) else shlex.quote(w) for w in words)])


def data(figure: Figure) -> str:
    """The file that took the place of the preset's data; empty where none did."""
    return Path(figure.typed[0].get("dataset.path", "")).name


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
            named = "infinity" if is_limit(curve) else stood_label(curve.width, curve.neurons)
            row = {"n": named} | ({"setting": setting} if setting else {})
            row |= {"step": str(curve.times().index[-1]), "networks": str(len(last[metrics[0]]))}
            for m, values in last.items():
                bar = curve.bar(m)
                row[m] = f"{values.mean():.4g}" + ("" if bar is None else f" +- {bar.iloc[-1]:.1g}")
            rows.append(row)
    frame = pd.DataFrame(rows)
    head = f"| {' | '.join(map(str, frame))} |\n|{'---|' * len(frame.columns)}\n"
    return head + "\n".join(f"| {' | '.join(map(str, row))} |" for row in frame.to_numpy())


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    main()
