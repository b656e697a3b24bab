#!/usr/bin/env python
"""Writes docs/figures.md: the paper's figures and claims beside what finished runs of the presets have measured.

    python scripts/figures_page.py [--runs outputs/figures] [--out docs/figures.md] [--data WORDS]

Takes every sweep of a preset (conf/figure/) below the folder, the longest of each, draws it, and says of each claim
what the runs show. Beside each picture goes a record of what was measured (NAME.json); the page is put together from
those, so that figures may be run on several machines: where a record tells more than the runs that are here, or there
are none, the figure stays as it is. What was not run says so; no number on the page comes from anywhere else.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from figures_claims import CLAIMS
from figures_record import Record, Row, measured
from figures_runs import VARIANTS, Figure, find

from mfrun.config import stood_label
from mfrun.runs.status import duration
from mfrun.shell import options
from mfrun.study import plot

NOT_RUN, WHOLE = "not run", "To the last step, at the widths that are listed below"
HEAD = """\
# The paper's figures

Every figure of [arXiv 1902.02880](https://arxiv.org/abs/1902.02880) with learning curves (1, 5 to 12) is a preset in
`conf/figure/`, which quotes where each of its numbers comes from and says which the paper leaves open. `mfrun sweep
+figure=fig7` trains it, n = infinity included, and `mfrun plot --latest` draws it. `budget=0.1` stops at a tenth of the
steps and `widths=[...]` takes other widths. `make figures` runs what two cores do in over an hour, with `SIZE=minutes`
a little of every figure, with `SIZE=full` every dense figure to its last step (a day on two slow cores), `make
figures-gpu` the presets as they are. All go on where they were, and write this page from the longest run of each figure
(`scripts/figures_page.py`), whose results stay in `docs/figures/NAME.json` where another machine runs the next one.
What was not run says so.

## What the paper says of them

"Gap" is the root mean square distance of one network's loss to the reference's over the logarithmic grid of steps, and
r the rate in gap ~ n^-r with its 95 % interval, as `mfrun compare` has them: with one start a width the interval is of
the line's residuals alone, without the chance of the start and the limit's error. The paper compares finite widths with
one another, so the largest real one is a reference beside n = infinity. A verdict is *confirmed* where r > 0 beyond its
interval and the widest network stays within 5 % of the loss's range of the reference, or *up to* the step where it
leaves or the run ends (its r is that up to there), *not confirmed* where r < 0 beyond it, and *undecided* where the
interval holds 0 or too few widths give none; *not seen* is what a run that was cut short may still show. "Close to
zero" is taken as below 1 %, "a significant fraction" as above 5 %, "about" as within 1 % and the sampling error. Two
trajectories are two where the distance at step 0 is below a twentieth of the largest one, in the limit or else the
widest network. Overfitting is a test loss that ends above its least value by more than its error while the training
loss fell.

Here +- is 1.96 standard errors over the samples of an evaluation. In the tables of last rows it is the limit's own bar,
that of its particles, which [does not hold everywhere](limit.md#does-it-hold), not late on CIFAR-10; where the bias
that is taken out of their mean is larger than that mean, 0 stands. Where the bar is as large as 5 % of the range, the
step at which a width leaves may be the limit's error.
"""

CHANGED = (
    "Where the limit in the place of the largest width as the reference changes the verdict on "
    '"increasingly matching", or where the widest network leaves the limit and its gap is more than twice the one '
    "among widths:"
)
STOOD_FOR = (
    "Beside it, a width that nobody can train, as long as few neurons may stand for it (below): the step at which "
    "the gap to the limit exceeds 5 % of the loss's range, of the largest real width and of the largest that is "
    "stood for, and the loss at the end of the two and of the limit."
)
BESIDE_REAL = (
    "May few neurons stand for many? Where a width was trained both ways: the root mean square distance in loss "
    "to the real network, and the step at which that exceeds 5 % of the loss's range, of what stands for it and of "
    "the next smaller real width; and loss and error at the end of the stand-in and of the real network. Two "
    "networks of one width are apart by the chance of their start. N neurons of layer 1 are few for the 3072 "
    "dimensions of CIFAR-10, where `stand_in.first` takes more ([where it fails](width.md))."
)

TIMES = "Times are those of the wall, on cores that other work may have shared."

# Figures in the order of the page, each with what was measured of it.
Records = list[tuple[Figure, Record | None]]


def main() -> None:
    """Write the records, the pictures and the page."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", default="outputs/figures", help="folder of the sweeps (outputs/figures)")
    p.add_argument("--out", default="docs/figures.md", help="the page; pictures and records go to a folder of its name")
    p.add_argument("--data", default="", help="what the file is that took the place of a preset's data, in words")
    args = p.parse_args()
    out = Path(args.out)
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    records = [(figure, recorded(figure, folder, args)) for figure in find(Path(args.runs)).values()]
    out.write_text(page(records, folder.name), encoding="utf-8")
    print(out)


def recorded(figure: Figure, folder: Path, args: argparse.Namespace) -> Record | None:
    """What is known of a figure: from its runs, which are drawn, or from the record, whichever tells more."""
    file = folder / f"{figure.name}.json"
    before = Record.read(file) if file.exists() else None
    if figure.folder is None:
        return before
    if before is not None and before.told > figure.told():
        here = f"the runs that are here tell less ({said(figure.told())})"
        print(f"{figure.name}: stays as it is ({said(before.told)}); {here}")
        return before
    words = [str(figure.folder), "--out", str(folder / f"{figure.name}.png"), "--title", figure.title]
    predicted = Path(args.runs) / "predicted" / figure.name
    words += ["--predict", str(predicted)] if predicted.exists() else []
    plot.main(options.plot().parse_args(words))
    now = measured(figure, args.data)
    now.write(file)
    return now


def said(told: tuple[bool, int, int, int]) -> str:
    """How much there is to see, in words."""
    return f"{told[2]} curves to step {told[1]}, {told[3]} steps in all"


def page(records: Records, pictures: str) -> str:
    """The page's text.

    Args:
        records: of all figures.
        pictures: the folder of the pictures.
    """
    lines = [HEAD, summary(records), ""]
    for claim in CLAIMS:
        about = [(f, r) for f, r in records if f.name in claim.figures]
        about.sort(key=lambda of: claim.figures.index(of[0].name))
        run = [(f, r, r.claims[claim.words]) for f, r in about if r is not None and claim.words in r.claims]
        left = [f.name for f, r in about if r is None or claim.words not in r.claims]
        lines += [f"### {claim.words} ({claim.source})", ""]
        if run:
            lines += ["| figure | steps | measured | verdict |", "|---|---|---|---|"]
            for f, r, (value, verdict) in run:
                name = _linked(f) + (f"<br>{r.instead}" if r.instead else "")
                lines.append(f"| {name} | {r.step} of {r.steps} | {value} | {verdict} |")
            lines.append("")
        if left:
            lines += [f"{NOT_RUN.capitalize()}: {', '.join(left)}.", ""]
    lines += ["## What n = infinity changes of these readings", "", *changed(records)]
    heads = ["figure", "real", "stood for", "loss at the end"]
    lines += table(STOOD_FOR, heads, records, lambda r: r.stood_for)
    heads = ["figure", "n", "distance to the real network", "loss at the end", "error at the end"]
    lines += table(BESIDE_REAL, heads, records, lambda r: r.beside_real)
    lines += ["", "## The figures", "", TIMES]
    for figure, record in records:
        lines += ["", f"### {figure.title}", ""]
        if figure.name in VARIANTS:
            lines += [f"The features: `{VARIANTS[figure.name][1]}`.", ""]
        if record is None:
            lines.append(f"`mfrun sweep {figure.command}`: {NOT_RUN}.")
            continue
        lines += [*(f"    {words}" for words in record.typed), ""]
        lines += [f"![{figure.title}]({pictures}/{figure.name}.png)", "", final_values(record), ""]
        if left := not_run(figure, record):
            lines.append(f"Widths of the preset of which no real network was run: {', '.join(left)}.")
        lines.append(f"Time taken: {duration(record.seconds)}, all runs one after another.")
        if record.data:
            other = f", {record.instead}" if record.instead else ""
            lines.append(f"Data: `{record.data}` in the place of the preset's{other}.")
        if record.unfinished:
            lines.append(f"Not finished: {', '.join(record.unfinished)}.")
    return "\n".join(lines) + "\n"


def not_run(figure: Figure, record: Record) -> list[str]:
    """The finite widths of the preset that are there by a stand-in alone or not at all."""
    run = {row["n"] for row in record.ends}
    return [label for n in figure.widths() if math.isfinite(n) and (label := stood_label(n, None)) not in run]


def summary(records: Records) -> str:
    """Which figures were run to their last step, which in part, and which not at all."""
    kinds: dict[str, list[str]] = {WHOLE: [], "Cut short": [], NOT_RUN.capitalize(): []}
    for figure, record in records:
        if record is None:
            kinds[NOT_RUN.capitalize()].append(figure.name)
        elif record.step >= record.steps:
            kinds[WHOLE].append(figure.name)
        else:
            kinds["Cut short"].append(f"{figure.name} ({100 * record.step / record.steps:.2g} %)")
    return ". ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names) + "."


def changed(records: Records) -> list[str]:
    """The figures whose finite widths agree with one another for longer, or more surely, than with the limit."""
    if rows := table(CHANGED, ["figure", "among widths", "with n = inf"], records, lambda r: r.changed):
        return rows[1:]
    there = "wherever both were run, the widths agree with the limit as they do with one another."
    return [f"Nothing: {there}" if any(r is not None and r.compared for _, r in records) else "Not run."]


def table(words: str, heads: list[str], records: Records, rows: Callable[[Record], list[Row]]) -> list[str]:
    """A table that compares figures, under the words that introduce it; nothing where there are no rows."""
    lines = []
    for figure, record in records:
        for row in rows(record) if record is not None else []:
            setting = f" [{row.setting}]" if row.setting else ""
            lines.append(f"| {_linked(figure)}{setting} | {' | '.join(row.cells)} |")
    return ["", words, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines] if lines else []


def final_values(record: Record) -> str:
    """A table of the last row of every curve."""
    heads = list(dict.fromkeys(key for row in record.ends for key in row))
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row.get(key, '') for key in heads)} |" for row in record.ends])


def _linked(figure: Figure) -> str:
    """Its name, with a link to its section."""
    anchor = re.sub(r"[^\w -]", "", figure.title.lower()).replace(" ", "-")
    return f"[{figure.name}](#{anchor})"


if __name__ == "__main__":
    main()
