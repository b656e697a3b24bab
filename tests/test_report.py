"""The report: all in one file, true to compare and to the curves, and alive in a browser where there is one."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from commands import LIMIT, TINY, curves, here
from test_study import write_run

import mfrun
from mfrun.runs.directory import RunDirectory
from mfrun.shell import options
from mfrun.study import compare

SEVERAL = ["threads=1", *TINY[2:], "steps=30"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("report") / "s"
    words = ["widths=[3,10,inf]", "replicates=2", "replicate_data=independent", "activation=relu,tanh", *LIMIT]
    assert here("sweep", *SEVERAL, *words, "title='Two <Gaussians> & more'", f"dir={top}") == 0
    assert here("report", str(top)) == 0
    return top


def text(page: str) -> str:
    """The page without its scripts and tags."""
    return unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", page)))


def test_the_page_needs_nothing_else(swept: Path) -> None:
    page = (swept / "report.html").read_text()
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", re.sub(r"(?s)(<script[^>]*>).*?</script>", r"\1", page))
    assert not [tag for tag in tags if re.search(r"""(src|href)=["']?(?!data:)\w""", tag)]
    assert "Two &lt;Gaussians&gt; &amp; more" in page


def test_it_says_what_compare_says(swept: Path) -> None:
    said = text((swept / "report.html").read_text())
    table = mfrun.compare(swept)
    for _, row in table.iterrows():
        off = f"a network of n = {row['width']} is off the limit by {row['gap_of_one']:.2g} over the run"
        assert f"{row['metric']} (activation={row['activation.name']}): {off}" in said
    assert said.count("the gap of one network") + said.count("cannot be estimated") == 4
    for (metric, activation), rows in table.groupby(["metric", "activation.name"]):
        rate = rows["rate_of_one"].iloc[0]
        moves = f"{'falls' if rate > 0 else 'grows'} like n to the power {-rate:.2f}"
        assert f"{metric} (activation={activation}): the gap of one network {moves}" in said
    assert "Networks of width n = 3, 10, ∞, for each value of activation. 6 runs: 6 finished" in said
    assert re.search(r"Trained with mfrun \S+ and torch \S+", said)
    assert re.search(r"activation.name\s+relu, tanh", said)


def test_its_commands_repeat_the_runs(swept: Path) -> None:
    found = re.search(r"<pre>(mfrun sweep [^<]*)</pre>", (swept / "report.html").read_text())
    assert found
    assert here(*shlex.split(unescape(found[1]))[1:], "dir=again") == 0
    for run in ("width=3,activation=tanh", "width=inf,activation=relu"):
        assert curves(f"again/{run}") == curves(str(swept / run))


def test_a_single_run_and_what_cannot_be_compared() -> None:
    assert here("train", *TINY, "steps=10", "dir=r") == 0
    assert here("report", "r", "--out", "r.html") == 0
    said = text(Path("r.html").read_text())
    assert "a comparison needs at least two widths with one setting" in said
    assert "mfrun train threads=1 width=4" in said


def test_what_takes_something_away_is_said() -> None:
    """As in compare's text: what is within errors, where runs diverged, and that the horizon is below an error."""
    write_run(Path("s/width=50"), 50, 0.5, replicates=2)
    write_run(Path("s/width=100"), 100, 1e-3, replicates=2)
    write_run(Path("s/width=inf"), math.inf, 0.0, bar=0.1)
    RunDirectory("s/width=50").write_status("diverged", step=1000, steps=1000)
    assert here("report", "s") == 0
    said = text(Path("s/report.html").read_text())
    measured = compare.measure(options.compare().parse_args(["s"]))
    for s in measured.studies:
        assert len(compare.caveats(s)) == 2
        assert all(f"{s.metric}: {caveat}." in said for caveat in compare.caveats(s))
    assert "n = 50 diverged; what is compared ends at step 1000" in said
    assert "the horizon's tolerance is below the reference's own error: more particles are needed" in said
    assert "n = 100 is off the limit by 0.001 over the run (not above the error of the limit itself)" in said
    assert "n = 50 is off the limit by 0.5 over the run and leaves it" in said


def test_a_single_point_is_seen() -> None:
    assert here("train", *TINY, "steps=1", "dir=r") == 0
    assert here("report", "r") == 0
    page = Path("r/report.html").read_text()
    assert page.count('"mode":"lines+markers"') == 2


def test_bad_input(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    for words, message in (([], "no run or sweep named"), (["no"], "no: no such folder"), (["."], "no run here")):
        assert here("report", *words) == 2
        assert message in capfd.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser(swept: Path, folder: Path) -> None:
    """The curves are drawn, a width is hidden, axes change their scale, and nothing complains."""
    act = """
<script>
window.addEventListener("load", async () => {
  const plot = document.getElementById("curves-population_loss");
  const drawn = () => plot.querySelectorAll(".scatterlayer .js-line").length;
  const before = drawn();
  await Plotly.restyle(plot, {visible: "legendonly"}, [0]);
  const hidden = drawn();
  await Plotly.relayout(plot, {"yaxis.type": "log"});
  document.body.setAttribute("data-told", [before, hidden, plot._fullLayout.yaxis.type].join());
});
</script></body>"""
    page = (swept / "report.html").read_text().replace("</body>", act)
    (folder / "acted.html").write_text(page)
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", f"file://{folder / 'acted.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    told = re.search(r'data-told="([^"]+)"', done.stdout)
    assert told, done.stderr[-2000:]
    before, hidden, scale = told[1].split(",")
    assert int(before) - int(hidden) == 1
    assert scale == "log"
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stderr


def test_curves_are_those_of_the_table(swept: Path) -> None:
    """The numbers in the page are the means of metrics.csv."""
    page = (swept / "report.html").read_text()
    frame = mfrun.load(swept).frame.query("step == 30 and activation == 'tanh' and width == 3")
    mean = float(frame["population_loss"].mean())
    numbers = re.findall(r"\d\.\d{6,}", page)
    assert any(math.isclose(float(n), mean, rel_tol=1e-12) for n in numbers)
