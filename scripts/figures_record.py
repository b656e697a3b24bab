"""What the runs of one figure show, as it stands on the page: measured where the runs are, kept where they are not.

The figures take days, on several machines, and runs are too large to keep beside a page. So every figure leaves a
record of what was measured, a JSON file beside its picture, and the page is put together from the records. A sweep
takes the place of a record as soon as it tells as much; who wants it there before deletes the file.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

from figures_claims import CLAIMS, TOLERANCE, at_end, falls, percent, references
from figures_runs import Figure

from mfrun.config import stood_label
from mfrun.files import write_atomically
from mfrun.study.convergence import Gap, Study, rms, study
from mfrun.study.curves import Curve, default_metrics, is_limit


@dataclass
class Row:
    """A row of a table that compares figures: the setting of the figure that it is of, and the other cells."""

    setting: str
    cells: list[str]


@dataclass
class Record:
    """What was measured of a figure.

    Attributes:
        told: how much there is to see (``Figure.told``).
        steps: of the preset in full.
        typed: the commands.
        data: the file that took the place of the preset's data; empty where none did.
        instead: what that file is, in words.
        unfinished: what keeps the sweep from being whole.
        seconds: training and evaluation time of all runs together.
        claims: what was measured and the verdict, by the claim's words.
        compared: whether there were two references to compare.
        changed: where n = infinity as the reference changes the reading.
        stood_for: when the largest widths, real and stood for, leave the limit.
        beside_real: how far what stands for a width is from real networks of it.
        ends: the last row of every curve.
    """

    told: tuple[bool, int, int, int]
    steps: int
    typed: list[str]
    data: str
    instead: str
    unfinished: list[str]
    seconds: float
    claims: dict[str, tuple[str, str]]
    compared: bool = False
    changed: list[Row] = field(default_factory=list)
    stood_for: list[Row] = field(default_factory=list)
    beside_real: list[Row] = field(default_factory=list)
    ends: list[dict[str, str]] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last one."""
        return self.told[1]

    @classmethod
    def read(cls, file: Path) -> Record:
        """One that was written."""
        of = json.loads(file.read_text(encoding="utf-8"))
        tables = {name: [Row(**row) for row in of[name]] for name in ("changed", "stood_for", "beside_real")}
        return cls(**of | tables | {"told": tuple(of["told"])})

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        write_atomically(file, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def measured(figure: Figure, instead: str) -> Record:
    """What the runs of a figure show.

    Args:
        figure: with a sweep.
        instead: what a file is that took the place of a preset's data.
    """
    compared, rows = changed(figure)
    other = data(figure)
    return Record(
        told=figure.told(),
        steps=figure.steps(),
        typed=[command(words) for words in figure.typed],
        data=other,
        instead=instead if other else "",
        unfinished=figure.notes,
        seconds=round(sum(float(s.frame["wall_seconds"].max()) for c in figure.curves for s in c.sources), 1),
        claims={
            c.words: (found.measured, found.verdict)
            for c in CLAIMS
            if figure.name in c.figures and (found := c.measure(figure))
        },
        compared=compared,
        changed=rows,
        stood_for=stood_for(figure),
        beside_real=beside_real(figure),
        ends=final_values(figure),
    )


def changed(figure: Figure) -> tuple[bool, list[Row]]:
    """Whether there are two references, and where finite widths agree longer, or more surely, than with the limit."""
    rows, compared = [], False
    found: dict[str, dict[str, Study]] = {}
    for setting, kind, s in references(figure):
        found.setdefault(setting, {})[kind] = s
    for setting, kinds in found.items():
        if len(kinds) == 2:
            compared = True
            if _reads_differently(*kinds.values(), figure):
                rows.append(Row(setting, [_reading(s, figure) for s in kinds.values()]))
    return compared, rows


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


def _leaves(g: Gap, s: Study, upto: str = "") -> str:
    """When a width leaves its reference, in words; ``upto``, where one of them ends before the figure does."""
    horizon = g.horizon(s.tolerance)
    if horizon:
        return f"leaves it at step {horizon[0]}"
    return f"does not leave it{upto}" if upto else "never leaves it"


def stood_for(figure: Figure) -> list[Row]:
    """When the largest real width and the largest that is stood for leave the limit, and where the three end."""
    rows = []
    for setting, curves in figure.beside():
        limit = next((c for c in curves if is_limit(c)), None)
        real = [c for c in curves if not is_limit(c) and not c.neurons]
        stood = [c for c in curves if c.neurons]
        if limit is None or not real or not stood:
            continue
        chosen = [real[-1], stood[-1]]
        gaps = study([*chosen, limit], figure.loss(), TOLERANCE, absolute=False)
        left = [g.horizon(gaps.tolerance) for g in gaps.gaps]
        end, upto = _common_end([*chosen, limit], figure)
        never = f"not{upto}" if upto else "never"
        cells = [
            f"{stood_label(c.width, c.neurons)}: {h[0] if h else never}" for c, h in zip(chosen, left, strict=True)
        ]
        ends = [f"{c.table(figure.loss()).loc[end].mean():.3g}" for c in (*chosen, limit)]
        rows.append(Row(setting, [*cells, ", ".join(ends) + upto]))
    return rows


def _common_end(curves: list[Curve], figure: Figure) -> tuple[int, str]:
    """The last step that all of them have, and words for it where the figure goes on."""
    end = int(max(set.intersection(*(set(c.times().index) for c in curves))))
    return end, f" up to step {end}" if end < figure.step() else ""


def beside_real(figure: Figure) -> list[Row]:
    """How far what stands for a width is from real networks of that width, beside the next smaller real width."""
    rows = []
    for setting, curves in figure.beside():
        real = {c.width: c for c in curves if not c.neurons and not is_limit(c)}
        for stood in (c for c in curves if c.neurons and c.width in real):
            smaller = [one for n, one in real.items() if n < stood.width][-1:]
            together = [*smaller, stood, real[stood.width]]
            held = study(together, figure.loss(), TOLERANCE, absolute=False)
            end, upto = _common_end(together, figure)
            distances = [
                f"n = {stood_label(g.width, g.neurons)}: {rms(g.of_one()):.2g}, {_leaves(g, held, upto)}"
                for g in held.gaps
            ]
            ends = [f"{c.table(figure.loss()).loc[end].mean():.3g}" for c in (stood, real[stood.width])]
            errors = [percent(*at_end(c, figure.error(), end)) for c in (stood, real[stood.width])]
            cells = [", ".join(ends) + upto, ", ".join(errors) + upto]
            rows.append(Row(setting, [f"{stood.width:g}", "<br>".join(reversed(distances)), *cells]))
    return rows


def final_values(figure: Figure) -> list[dict[str, str]]:
    """The last row of every curve."""
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
    return rows


def command(words_by_key: dict[str, str]) -> str:
    """What was typed, without what concerns the machine."""
    typed = {k: v for k, v in words_by_key.items() if k not in ("threads", "device", "keep_checkpoints")}
    typed |= {key: Path(value).name for key, value in typed.items() if key.endswith(".path")}
    words = [f"{'+' if key == 'figure' else ''}{key}={value}" for key, value in typed.items()]
    return " ".join(["mfrun sweep", *(w if re.fullmatch(r"[\w+=.,-]+", w) else shlex.quote(w) for w in words)])


def data(figure: Figure) -> str:
    """The file that took the place of the preset's data; empty where none did."""
    return next((Path(value).name for key, value in figure.typed[0].items() if key.endswith(".path")), "")
