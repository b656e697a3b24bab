#!/usr/bin/env python
"""Writes docs/figures.md: the paper's figures and claims beside what finished runs of the presets have measured.

    python scripts/figures_page.py [--runs outputs/figures] [--out docs/figures.md] [--data WORDS]

Takes every sweep of a preset (conf/figure/) below the folder, the longest of each, draws it, and says of each claim
what the runs show. What was not run says so; no number on the page comes from anywhere else.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pandas as pd
from figures_claims import CLAIMS, TOLERANCE, at_end, falls, percent, references
from figures_runs import VARIANTS, Figure, find

from mfrun.config import stood_label
from mfrun.runs.status import duration
from mfrun.shell import options
from mfrun.study import plot
from mfrun.study.convergence import Gap, Study, rms, study
from mfrun.study.curves import default_metrics, is_limit

NOT_RUN = "not run"
HEAD = """\
# The paper's figures

Every figure of [arXiv 1902.02880](https://arxiv.org/abs/1902.02880) with learning curves (1, 5 to 12) is a preset in
`conf/figure/`, which quotes where each of its numbers comes from and says which the paper leaves open. `mfrun sweep
+figure=fig7` trains it, n = infinity included, and `mfrun plot --latest` draws it. `budget=0.1` stops at a tenth of the
steps and `widths=[...]` takes other widths. `make figures` runs what two cores do in over an hour, with `SIZE=minutes`
a little of every figure, with `SIZE=full` every dense figure to its last step (a day on two slow cores), `make
figures-gpu` the presets as they are. All go on where they were, and write this page from the longest run of each figure
(`scripts/figures_page.py`). What was not run says so.

## What the paper says of them

"Gap" is the root mean square distance of one network's loss to the reference's over the logarithmic grid of steps, and
r the rate in gap ~ n^-r with its 95 % interval, as `mfrun compare` has them. The paper compares finite widths with one
another, so the largest real one is a reference beside n = infinity. A verdict is *confirmed* where r > 0 beyond its
interval and the widest network stays within 5 % of the loss's range of the reference, or *up to* the step where it
leaves or the run ends (its r is that up to there), *not confirmed* where r < 0 beyond it, and *undecided* where the
interval holds 0; *not seen* is what a run that was cut short may still show. "Close to zero" is taken as below 1 %, "a
significant fraction" as above 5 %, "about" as within 1 % and the sampling error. Two trajectories are two where the
distance at step 0 is below a twentieth of the largest one, in the limit or else the widest network. Overfitting is a
test loss that ends above its least value by more than its error while the training loss fell.
"""


def main() -> None:
    """Write the page and its pictures."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", default="outputs/figures", help="folder of the sweeps (outputs/figures)")
    p.add_argument("--out", default="docs/figures.md", help="the page; pictures go to a folder of its name")
    p.add_argument("--data", default="", help="what the file is that took the place of a preset's data, in words")
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
    out.write_text(page(figures, pictures.name, args.data))
    print(out)


def page(figures: dict[str, Figure], pictures: str, instead: str) -> str:
    """The page's text.

    Args:
        figures: by name.
        pictures: their folder.
        instead: what a file is that took the place of a preset's data.
    """
    lines = [HEAD, summary(figures), ""]
    for claim in CLAIMS:
        run = [figures[name] for name in claim.figures if figures[name].folder is not None]
        left = [name for name in claim.figures if figures[name].folder is None]
        lines += [f"### {claim.words} ({claim.source})", ""]
        if run:
            lines += ["| figure | steps | measured | verdict |", "|---|---|---|---|"]
            for f in run:
                found = claim.measure(f)
                steps = f"{f.step()} of {f.steps()}"
                name = f"[{f.name}](#{_anchor(f.title)})" + (f"<br>{instead}" if instead and data(f) else "")
                lines.append(f"| {name} | {steps} | {found.measured} | {found.verdict} |")
            lines.append("")
        if left:
            lines += [f"{NOT_RUN.capitalize()}: {', '.join(left)}.", ""]
    lines += [
        "## What n = infinity changes of these readings",
        "",
        *changed(figures),
        *stood_for(figures),
        *beside_real(figures),
        "",
        "## The figures",
    ]
    for figure in figures.values():
        lines += ["", f"### {figure.title}", ""]
        if figure.name in VARIANTS:
            lines += [f"The features: `{VARIANTS[figure.name][1]}`.", ""]
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
            lines.append(f"Data: `{other}` in the place of the preset's{f', {instead}' if instead else ''}.")
        if figure.notes:
            lines.append(f"Not finished: {', '.join(figure.notes)}.")
    return "\n".join(lines) + "\n"


def summary(figures: dict[str, Figure]) -> str:
    """Which figures are here to their last step, which in part, and which not at all."""
    kinds: dict[str, list[str]] = {"To the last step": [], "Cut short": [], NOT_RUN.capitalize(): []}
    for figure in figures.values():
        if figure.folder is None:
            kinds[NOT_RUN.capitalize()].append(figure.name)
        elif figure.step() >= figure.steps():
            kinds["To the last step"].append(figure.name)
        else:
            kinds["Cut short"].append(f"{figure.name} ({100 * figure.step() / figure.steps():.2g} %)")
    return ". ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names) + "."


def changed(figures: dict[str, Figure]) -> list[str]:
    """The figures whose finite widths agree with one another for longer, or more surely, than with the limit."""
    rows, compared = [], False
    for figure in figures.values():
        found: dict[str, dict[str, Study]] = {}
        for setting, kind, s in references(figure) if figure.folder is not None else []:
            found.setdefault(setting, {})[kind] = s
        for setting, kinds in found.items():
            if len(kinds) == 2:
                compared = True
                if _reads_differently(*kinds.values(), figure):
                    cells = [_reading(s, figure) for s in kinds.values()]
                    rows.append(f"| {_named(figure, setting)} | {' | '.join(cells)} |")
    if not rows:
        there = "wherever both were run, the widths agree with the limit as they do with one another."
        return [f"Nothing: {there}" if compared else "Not run."]
    head = (
        "Where the limit in the place of the largest width as the reference changes the verdict on "
        '"increasingly matching", or where the widest network leaves the limit and its gap is more than twice the one '
        "among widths:"
    )
    return [head, "", "| figure | among widths | with n = inf |", "|---|---|---|", *rows]


def _reads_differently(among: Study, limit: Study, figure: Figure) -> bool:
    # Why something is undecided may differ without the reading being another.
    if falls(among, figure).split(" (")[0] != falls(limit, figure).split(" (")[0]:
        return True
    to_limit, to_largest = (rms(s.gaps[-1].of_one()) for s in (limit, among))
    return limit.gaps[-1].horizon(limit.tolerance) is not None and to_limit > 2 * to_largest


def _reading(s: Study, figure: Figure) -> str:
    """The verdict, and how far the widest network is from the reference."""
    widest = s.gaps[-1]
    label = stood_label(widest.width, widest.neurons)
    return f"{falls(s, figure)}; n = {label} is {rms(widest.of_one()):.2g} from n = {s.reference}, {_leaves(widest, s)}"


def _leaves(g: Gap, s: Study) -> str:
    """When a width leaves its reference, in words."""
    horizon = g.horizon(s.tolerance)
    return f"leaves it at step {horizon[0]}" if horizon else "never leaves it"


def _named(figure: Figure, setting: str) -> str:
    return f"[{figure.name}](#{_anchor(figure.title)})" + (f" [{setting}]" if setting else "")


def stood_for(figures: dict[str, Figure]) -> list[str]:
    """When the largest real width and the largest that is stood for leave the limit, and where the three end."""
    rows = []
    for figure in figures.values():
        for setting, curves in figure.beside() if figure.folder is not None else []:
            limit = next((c for c in curves if is_limit(c)), None)
            real = [c for c in curves if not is_limit(c) and not c.neurons]
            stood = [c for c in curves if c.neurons]
            if limit is None or not real or not stood:
                continue
            chosen = [real[-1], stood[-1]]
            gaps = study([*chosen, limit], figure.loss(), TOLERANCE, absolute=False)
            left = [g.horizon(gaps.tolerance) for g in gaps.gaps]
            cells = [
                f"{stood_label(c.width, c.neurons)}: {h[0] if h else 'never'}"
                for c, h in zip(chosen, left, strict=True)
            ]
            ends = [f"{c.table(figure.loss()).iloc[-1].mean():.3g}" for c in (*chosen, limit)]
            rows.append(f"| {_named(figure, setting)} | {' | '.join(cells)} | {', '.join(ends)} |")
    if not rows:
        return []
    head = (
        "Beside it, a width that nobody can train, as long as few neurons may stand for it (below): the step at which "
        "the gap to the limit exceeds 5 % of the loss's range, of the largest real width and of the largest that is "
        "stood for, and the loss at the end of the two and of the limit."
    )
    return ["", head, "", "| figure | real | stood for | loss at the end |", "|---|---|---|---|", *rows]


def beside_real(figures: dict[str, Figure]) -> list[str]:
    """How far what stands for a width is from real networks of that width, beside the next smaller real width."""
    rows = []
    for figure in figures.values():
        for setting, curves in figure.beside() if figure.folder is not None else []:
            real = {c.width: c for c in curves if not c.neurons and not is_limit(c)}
            for stood in (c for c in curves if c.neurons and c.width in real):
                smaller = [one for n, one in real.items() if n < stood.width][-1:]
                held = study([*smaller, stood, real[stood.width]], figure.loss(), TOLERANCE, absolute=False)
                cells = [
                    f"n = {stood_label(g.width, g.neurons)}: {rms(g.of_one()):.2g}, {_leaves(g, held)}"
                    for g in held.gaps
                ]
                ends = [f"{c.table(figure.loss()).iloc[-1].mean():.3g}" for c in (stood, real[stood.width])]
                errors = [percent(*at_end(c, figure.error())) for c in (stood, real[stood.width])]
                cells = ["<br>".join(reversed(cells)), ", ".join(ends), ", ".join(errors)]
                rows.append(f"| {_named(figure, setting)} | {stood.width:g} | {' | '.join(cells)} |")
    if not rows:
        return []
    head = (
        "May few neurons stand for many? Where a width was trained both ways: the root mean square distance in loss "
        "to the real network, and the step at which that exceeds 5 % of the loss's range, of what stands for it and of "
        "the next smaller real width; and loss and error at the end of the stand-in and of the real network. Two "
        "networks of one width are apart by the chance of their start. N neurons of layer 1 are few for the 3072 "
        "dimensions of CIFAR-10, where `stand_in.first` takes more ([where it fails](width.md))."
    )
    heads = "| figure | n | distance to the real network | loss at the end | error at the end |"
    return ["", head, "", heads, "|---|---|---|---|---|", *rows]


def command(words_by_key: dict[str, str]) -> str:
    """What was typed, without what concerns the machine."""
    typed = {k: v for k, v in words_by_key.items() if k not in ("threads", "device", "keep_checkpoints")}
    typed |= {key: Path(value).name for key, value in typed.items() if key.endswith(".path")}
    words = [f"{'+' if key == 'figure' else ''}{key}={value}" for key, value in typed.items()]
    return " ".join(["mfrun sweep", *(w if re.fullmatch(r"[\w+=.,-]+", w) else shlex.quote(w) for w in words)])


def data(figure: Figure) -> str:
    """The file that took the place of the preset's data; empty where none did."""
    return next((Path(value).name for key, value in figure.typed[0].items() if key.endswith(".path")), "")


def seconds(figure: Figure) -> float:
    """Training and evaluation time of all runs together."""
    return sum(float(s.frame["wall_seconds"].max()) for c in figure.curves for s in c.sources)


def final_values(figure: Figure) -> str:
    """A table of the last row of every curve."""
    metrics = default_metrics(figure.curves)
    rows = []
    for setting, curves in figure.settings():
        for curve in curves:
            ends = {m: curve.table(m).iloc[-1] for m in metrics}
            named = "infinity" if is_limit(curve) else stood_label(curve.width, curve.neurons)
            row = {"n": named} | ({"setting": setting} if setting else {})
            row |= {"step": str(curve.times().index[-1]), "networks": str(len(ends[metrics[0]]))}
            for m, values in ends.items():
                bar = curve.bar(m)
                row[m] = f"{values.mean():.4g}" + ("" if bar is None else f" +- {bar.iloc[-1]:.1g}")
            rows.append(row)
    frame = pd.DataFrame(rows).fillna("")
    head = f"| {' | '.join(map(str, frame))} |\n|{'---|' * len(frame.columns)}\n"
    return head + "\n".join(f"| {' | '.join(map(str, row))} |" for row in frame.to_numpy())


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    main()
