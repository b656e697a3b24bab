"""``mfrun report``: one HTML file that says what a sweep was and what it shows, and needs nothing else to be opened."""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import shlex
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import plotly.graph_objects as go

from mfrun import __version__
from mfrun.config import flatten, width_label
from mfrun.errors import UserError
from mfrun.files import plain, write_atomically
from mfrun.runs.directory import RunDirectory, find_runs, newest, read_sweep, read_words
from mfrun.runs.status import duration, summary
from mfrun.shell import options
from mfrun.study import compare, kernels, style, widths
from mfrun.study.convergence import Gap, Study, rms
from mfrun.study.curves import Curve, choose_metrics, describe, is_limit, load

DASHES = ("solid", "dot", "dashdot", "longdash", "dash", "longdashdot")
# Of what stands for a width whose real networks are drawn, too.
BESIDE = "1px,3px"
STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em }
h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-size: .85em; display: block; overflow-x: auto }
td, th { padding: .15em .7em; text-align: right; border-bottom: 1px solid #eee }
th:first-child, td:first-child { text-align: left }
pre { background: #f6f6f6; padding: .7em; overflow-x: auto }
img { max-width: 100% }
footer { color: #777; font-size: .85em }
"""


def main(args: argparse.Namespace) -> int:
    """Entry point of the command."""
    if not args.latest and args.path is None:
        raise UserError("no run or sweep named; give its folder, or --latest")
    folder = newest() if args.latest else Path(args.path)
    file = Path(args.out) if args.out else folder / "report.html"
    text = page(folder, args)
    try:
        write_atomically(file, text)
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written ({error.strerror})") from error
    print(file)
    return 0


def page(folder: Path, args: argparse.Namespace) -> str:
    """The whole page.

    Args:
        folder: of a run, a sweep, or runs.
        args: the command's options.

    Raises:
        UserError: there is nothing to report.
    """
    curves, _ = load([str(folder)], latest=False)
    runs = [source.run for curve in curves for source in curve.sources]
    facts = read_sweep(folder) or {}
    title = str(facts.get("title") or folder.resolve().name)
    parts = [f"<h1>{escape(title)}</h1>", _opening(curves, runs, facts), "<h2>Curves</h2>", _curves(curves, args)]
    reference = "limit" if any(is_limit(c) for c in curves) else "largest width"
    parts += [f"<h2>Distance to the {reference}</h2>", _comparison(folder, args)]
    standing = pd.DataFrame(summary(find_runs(folder, waiting=True)))
    parts += ["<h2>Settings</h2>", _settings(runs), "<h2>Runs</h2>", _table(standing)]
    parts += ["<h2>Again</h2>", f"<pre>{escape(_commands(folder, facts))}</pre>", _versions(runs)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f"<!DOCTYPE html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _opening(curves: list[Curve], runs: list[RunDirectory], facts: dict[str, Any]) -> str:
    """What was swept, how far it came, and how long it took, in a sentence each."""
    widths = ", ".join(dict.fromkeys("∞" if math.isinf(c.width) else c.label for c in curves))
    keys = [k for k in facts.get("swept") or [] if k != "width"]
    swept = f", for each value of {', '.join(keys)}" if keys else ""
    states = [run.status() for run in runs]
    counts = pd.Series([s["state"] for s in states]).value_counts()
    seconds = sum(float(s.get("wall_seconds", 0)) for s in states)
    told = f"{len(runs)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    bands = "Bands of finite widths are one standard deviation over replicates."
    if any(is_limit(c) for c in curves):
        limit = (
            "The limit n = ∞ is dashed and black, with the band of its 95 % interval over independent particle sets."
        )
        bands = f"{limit} {bands}"
    how = f"{escape(told)}; {duration(seconds)} of training in all. {bands}"
    return f"<p>Networks of width n = {widths}{escape(swept)}. {how}</p>"


def _curves(curves: list[Curve], args: argparse.Namespace) -> str:
    """An interactive picture for each metric; the library comes once, with the first of them."""
    colours = {w: mpl.colors.to_hex(c) for w, c in style.colours([c.width for c in curves]).items()}
    settings = list(dict.fromkeys(describe(c.setting) for c in curves))
    dotted = widths.beside((c.width, c.neurons) for c in curves)
    pictures = list[str]()
    for metric in choose_metrics(curves, args.metrics):
        figure = go.Figure()
        for curve in curves:
            if metric in curve.metrics():
                place = settings.index(describe(curve.setting))
                dash = "dash" if is_limit(curve) and place == 0 else DASHES[place % len(DASHES)]
                if (curve.width, curve.neurons) in dotted and place == 0:
                    dash = BESIDE
                _add(figure, curve, metric, colours[curve.width], dash)
        figure.update_layout(
            title={"text": metric, "y": 0.97},
            template="plotly_white",
            height=420,
            margin={"l": 60, "r": 20, "t": 90, "b": 50},
            hovermode="x unified",
            xaxis={"title": "SGD step", "type": "log"},
            updatemenus=[_axis_menu("x", 0.0, "log"), _axis_menu("y", 0.22, "linear")],
        )
        first = not pictures
        pictures.append(figure.to_html(full_html=False, include_plotlyjs=first, div_id=f"curves-{metric}"))
    return "".join(pictures)


def _add(figure: go.Figure, curve: Curve, metric: str, colour: str, dash: str) -> None:
    """A curve, and its band; both go and come with the curve's entry in the legend."""
    mean, spread = curve.drawn(metric)
    mean = mean[mean.index > 0]
    name = "n = ∞" if is_limit(curve) else f"n = {curve.label}"
    if curve.neurons:
        name += f" (N = {curve.neurons})"
    if curve.setting:
        name += f", {describe(curve.setting)}"
    x = [int(k) for k in mean.index]
    line = {"color": colour, "dash": dash, "width": 2}
    # Points that no line joins to another have a marker instead.
    alone = style.alone(mean.notna().to_numpy())
    marker = {"size": [6 if i in alone else 0 for i in range(len(x))]} if alone else None
    mode = "lines+markers" if alone else "lines"
    figure.add_scatter(x=x, y=mean.tolist(), name=name, legendgroup=name, line=line, mode=mode, marker=marker)
    if spread is not None:
        spread = spread.reindex(mean.index)
        y = [*(mean + spread), *(mean - spread)[::-1]]
        figure.add_scatter(
            x=x + x[::-1],
            y=y,
            fill="toself",
            fillcolor=colour,
            opacity=0.15,
            line={"width": 0},
            legendgroup=name,
            showlegend=False,
            hoverinfo="skip",
        )


def _axis_menu(axis: str, place: float, first: str) -> dict[str, Any]:
    kinds = [first, "linear" if first == "log" else "log"]
    buttons = [{"label": f"{axis}: {k}", "method": "relayout", "args": [{f"{axis}axis.type": k}]} for k in kinds]
    return {"buttons": buttons, "type": "buttons", "direction": "right", "x": place, "y": 1.16, "xanchor": "left"}


def _comparison(folder: Path, args: argparse.Namespace) -> str:
    """compare's sentences, table and picture, or why there are none."""
    words = [str(folder), *(["--metrics", args.metrics] if args.metrics else [])]
    try:
        measured = compare.measure(options.compare().parse_args(words))
    except UserError as error:
        return f"<p>{escape(str(error))}.</p>"
    said = "".join(f"<li>{escape(line)}</li>" for s in measured.studies for line in sentences(s))
    png = io.BytesIO()
    with mpl.rc_context(style.RC):  # type: ignore[arg-type]
        compare.figure(measured.studies).savefig(png, format="png", dpi=130)
    picture = base64.b64encode(png.getvalue()).decode()
    columns = ["metric", "width", "neurons", "replicates", "gap_of_mean", "noise", "gap_of_one", "horizon_t"]
    keys = list(dict.fromkeys(k for s in measured.studies for k in s.setting))
    table = measured.table
    table["width"] = [width_label(n) for n in table["width"]]
    if table["neurons"].isna().all():
        columns.remove("neurons")
    marks = {True: "*", False: "", None: "?"}
    for of in ("mean", "one"):
        flags = table[f"{of}_flagged"]
        table[f"gap_of_{of}"] = [f"{v:.3g}{marks[f]}" for v, f in zip(table[f"gap_of_{of}"], flags, strict=True)]
    legend = "<p>* not above the noise; ? one replicate does not show the chance of the start.</p>"
    layers = "".join(f"<pre>{escape(kernels.text(one).strip())}</pre>" for one in compare.of_kernels(measured))
    image = f"<img alt='gaps' src='data:image/png;base64,{picture}'>"
    left_out = "".join(f"<p>Left out: {escape(line)}.</p>" for line in measured.left_out)
    return f"<ul>{said}</ul>{left_out}{_table(table[[*keys, *columns]])}{legend}{layers}{image}"


def sentences(s: Study) -> list[str]:
    """What a comparison says: a sentence for each width, what takes something away from them, and the rate."""
    where = f" ({describe(s.setting)})" if s.setting else ""
    reference = "the limit" if s.reference == "inf" else f"n = {s.reference}"
    lines = [f"{s.metric}{where}: {_sentence(g, s, reference)}" for g in s.gaps]
    lines += [f"{s.metric}{where}: {caveat}." for caveat in compare.caveats(s)]
    if s.law.widths >= 3:
        slope = f"{s.law.b:.2g}, 95 % interval {s.law.low:.2g} to {s.law.high:.2g}"
        lines.append(f"{s.metric}{where}: the time of leaving is a + b ln n over {s.law.widths} widths, b = {slope}.")
    if math.isnan(s.fit_one.rate):
        return [*lines, f"{s.metric}{where}: the rate in n cannot be estimated: {s.fit_one.why}."]
    interval = f", 95 % interval {-s.fit_one.high:.2f} to {-s.fit_one.low:.2f}" if s.fit_one.source else ""
    moves = "falls" if s.fit_one.rate > 0 else "grows"
    return [
        *lines,
        f"{s.metric}{where}: the gap of one network {moves} like n to the power {-s.fit_one.rate:.2f}{interval}.",
    ]


def _sentence(g: Gap, s: Study, reference: str) -> str:
    noise = {
        True: "; the mean's gap is within the noise",
        False: f"; the mean's gap is {rms(g.of_mean()):.2g}, above its noise of {rms(g.noise()):.2g}",
        None: "; one replicate does not tell chance from the mean's gap",
    }[g.mean_flagged()]
    by = f" (stood for by {g.neurons} neurons a layer)" if g.neurons else ""
    # The flag that is a star in compare's table.
    chance = f" (not above the error of {reference} itself)" if g.one_flagged() else ""
    off = f"is off {reference} by {rms(g.of_one()):.2g} over the run{chance}"
    return f"a network of n = {width_label(g.width)}{by} {off}{_until(g, s)}{noise}."


def _until(g: Gap, s: Study) -> str:
    """How long a network stays near the reference, as far as there is a tolerance to say so."""
    if not s.has_tolerance:
        return ""
    horizon = g.horizon(s.tolerance)
    if horizon:
        return f" and leaves it by more than {s.tolerance:.3g} at t = {horizon[1]:.3g}"
    return f" and stays near it to {f'step {s.last}, before runs diverged' if s.diverged else 'the end'}"


def _settings(runs: list[RunDirectory]) -> str:
    """The keys that all runs share, and those in which they differ."""
    flat = [{k: str(v) for k, v in flatten(plain(run.config())).items()} for run in runs]
    rows = []
    for key in dict.fromkeys(k for f in flat for k in f):
        values = list(dict.fromkeys(f[key] for f in flat if key in f))
        rows.append({"key": key, "value": ", ".join(values[:12]) + (", ..." if len(values) > 12 else "")})
    return _table(pd.DataFrame(rows))


def _commands(folder: Path, facts: dict[str, Any]) -> str:
    """What repeats the runs."""
    if facts:
        return shlex.join(["mfrun", "sweep", *(facts.get("overrides") or [])])
    lines = []
    for run in find_runs(folder):
        words = read_words(run.path) or []
        lines.append(shlex.join(["mfrun", "train", *(word for word in words if not word.startswith("dir="))]))
    return "\n".join(lines)


def _versions(runs: list[RunDirectory]) -> str:
    """With what the states were written, and this page."""
    found = set()
    for run in runs:
        for commit in run.path.glob("state-*.json"):
            try:
                facts = json.loads(commit.read_text())
                found.add(f"mfrun {facts['version']} and torch {facts['torch']}")
            except (OSError, ValueError, KeyError):
                continue
    trained = f"Trained with {'; '.join(sorted(found))}. " if found else ""
    return f"<footer>{escape(trained)}This page is by mfrun {__version__}.</footer>"


def _table(frame: pd.DataFrame) -> str:
    return frame.to_html(index=False, border=0, escape=True, float_format=lambda v: f"{v:.3g}", na_rep="-")
