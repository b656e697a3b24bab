"""The pages of docs/howto, run as a user would: their files, their commands, and the program from its wheel."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import curves, here, rows

from mfrun import registry
from mfrun.config import validated
from mfrun.dynamics.experiment import assemble
from mfrun.networks.dense import Dense
from mfrun.shell.compose import compose

ROOT = Path(__file__).resolve().parents[1]
HOWTO = ROOT / "docs" / "howto"
PAGES = sorted(page for page in HOWTO.glob("*.md") if page.stem != "index")
# What the wheel is made of.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "mfrun", "conf")
# The page of a kind, where it is called otherwise.
CALLED = {"init": "initial_law", "law": "initial_law"}
BLOCK = re.compile(r"^```(python|yaml|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Hydra's own comment has to be the first line of a file.
PATH = re.compile(r"(?:# @.*\n)?# (\S+\.(?:py|yaml))\n")
OWN = ["--config-dir", "conf"]
LONG = 120  # seconds


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """That of a user who has installed the wheel: `mfrun` on PATH, and the folder that they work in on PYTHONPATH."""
    place = tmp_path_factory.mktemp("wheel")
    tree, site, bin_ = place / "tree", place / "site", place / "bin"
    # setuptools would leave its build folder in the checkout.
    for name in SOURCES:
        into = tree / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, into, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            into.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, into)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", *without_isolation(), "--wheel-dir", str(place), str(tree)])
    (wheel,) = place.glob("*.whl")
    run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)])
    bin_.mkdir()
    # -P: as the installed command, which does not look into the folder that it is called from.
    (bin_ / "mfrun").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m mfrun "$@"\n')
    (bin_ / "mfrun").chmod(0o755)
    path = os.pathsep.join([str(bin_), os.environ["PATH"]])
    found = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join([str(site), "."]), "OMP_NUM_THREADS": "1"}
    said = run([sys.executable, "-P", "-c", "import mfrun; print(mfrun.__file__)"], env=found)
    assert Path(said.strip()) == site / "mfrun" / "__init__.py"
    return found


def without_isolation() -> list[str]:
    """Where the build's own needs are here, pip need not fetch them."""
    try:
        new = int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        new = False
    return ["--no-build-isolation"] if new else []


@pytest.fixture(scope="module")
def ran(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[tuple[Path, str]]]]:
    """The folders of the pages that are asked for, and what their commands said; two at a time, which start slowly."""

    def one(page: Path) -> tuple[Path, str]:
        place = tmp_path_factory.mktemp(page.stem)
        write(page, place)
        return place, "".join(
            run(["sh", "-ec", body], environment, place) for kind, body in blocks(page) if kind == "sh"
        )

    own = [item for item in request.session.items if item.path == Path(__file__) and hasattr(item, "callspec")]
    asked = [item.callspec.params["page"] for item in own]
    with ThreadPoolExecutor(2) as pool:
        yield {page: pool.submit(one, page) for page in asked}


def run(command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What it prints; it has to end well."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def blocks(page: Path) -> list[tuple[str, str]]:
    """Kind and text of the fenced blocks of a page that are files or commands."""
    return BLOCK.findall(page.read_text())


def files(page: Path) -> dict[str, str]:
    """The files of the user's project by path, as they stand on the page."""
    found = {}
    for kind, body in blocks(page):
        if kind != "sh":
            path = PATH.match(body)
            assert path, f"{page.name}: a block without a path:\n{body}"
            found[path[1]] = body
    return found


def commands(page: Path) -> list[list[str]]:
    """The words of the page's commands."""
    text = "".join(body for kind, body in blocks(page) if kind == "sh")
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


def write(page: Path, into: Path) -> None:
    """The page's files, in a folder."""
    for path, body in files(page).items():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).write_text(body)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_it_stands(
    page: Path, ran: dict[Path, Future[tuple[Path, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, said = ran[page].result()
    monkeypatch.chdir(place)
    assert commands(page), "a page without a command"
    assert "left out from here on" not in said
    runs = [file.parent for file in Path().rglob("metrics.csv")]
    # Every dir= that is typed has been written, with all of its runs.
    typed = {w.removeprefix("dir=") for words in commands(page) for w in words if w.startswith("dir=")}
    assert all(any(r == Path(d) or Path(d) in r.parents for r in runs) for d in typed)
    for r in runs:
        assert json.loads((r / "status.json").read_text())["state"] == "finished"
        losses = [float(v) for row in rows(str(r)) for k, v in row.items() if k.endswith("_loss")]
        assert losses
        assert all(map(math.isfinite, losses))
    # The rest is asked in this process, whose mfrun is the checkout's.
    monkeypatch.syspath_prepend(".")
    # No page's module stays for the next one.
    monkeypatch.setitem(sys.modules, "mine", ModuleType("mine"))
    del sys.modules["mine"]
    check = CHECKS[page.stem]
    check(mine()) if Path("mine.py").exists() else check()


def mine() -> ModuleType:
    """The user's module, as the registry will find it."""
    importlib.invalidate_caches()
    return importlib.import_module("mine")


def again(page: str, into: str, *more: str, which: int = 0) -> list[str]:
    """Train one network by a command of the page in this process, with other words in the place of its own.

    Returns:
        Those of its words that are left and choose nothing from the page's own files.
    """
    group = CALLED.get(page, page)
    keys = {w.partition("=")[0] for w in more} | {"dir", "width", "widths"}
    words = [w for w in commands(HOWTO / f"{page}.md")[which][2:] if w.partition("=")[0] not in keys]
    if "width=inf" not in more:
        words.append("width=20")
    assert here("train", *words, *more, f"dir={into}") == 0
    return [w for w in words if w.partition("=")[0].partition(".")[0] != group]


def start(*words: str) -> Dense:
    """The network of a configuration at step 0."""
    network = assemble(validated(compose([*words, "dtype=float64"], OWN))).network()
    assert isinstance(network, Dense)
    return network


def equal(one: str, other: str, rel: float = 1e-4) -> bool:
    """Whether two runs have the same curves."""
    a, b = ([{k: float(v) for k, v in row.items()} for row in curves(r)] for r in (one, other))
    return all(x == pytest.approx(y, rel=rel, abs=1e-5) for x, y in zip(a, b, strict=True))


def value(run: str, column: str, row: int = -1) -> float:
    return float(rows(run)[row][column])


# -- what each page promises, where there is another way to know it ---------------------------------------------------


def activation(mine: ModuleType) -> None:
    """With beta = 1 it is silu, with beta = 0 a line of slope 1/2."""
    h = torch.linspace(-5, 5, 101, dtype=torch.float64)
    a = torch.empty_like(h)
    mine.Swish(beta=1.0).forward(h, out=a)
    torch.testing.assert_close(a, F.silu(h))
    mine.Swish(beta=0.0).forward(h, out=a)
    torch.testing.assert_close(a, h / 2)
    words = again("activation", "one", "activation.beta=1")
    assert here("train", *words, "activation=silu", "dir=other") == 0
    assert equal("one", "other")
    assert not equal("one", "swish/width=20")


def loss(mine: ModuleType) -> None:
    """Outputs of 0 have the margin's square, and log cosh 1."""
    for which, known in enumerate((0.5**2, math.log(math.cosh(1)))):
        again("loss", f"at_0_{which}", "init.mu2=0", "init.tau2=0", "steps=1", which=which)
        assert value(f"at_0_{which}", "population_loss", 0) == pytest.approx(known, rel=1e-6)
    y, yhat = torch.tensor([[1.0, -1.0, 1.0]]), torch.tensor([[0.7, -0.2, -1.0]])
    torch.testing.assert_close(mine.SquaredHinge(0.5).value(y, yhat), torch.tensor([0.0, 0.09, 2.25]))


def test_function(mine: ModuleType) -> None:
    """The share of margins <= 0 is the error, which counts those below 0; at outputs of 0 all columns are known."""
    for n in ("10", "20", "inf"):
        for row in rows(f"margins/width={n}"):
            assert float(row["population_margin_0"]) == pytest.approx(float(row["population_error"]))
            assert float(row["population_margin_half"]) >= float(row["population_margin_0"])
    again("test_function", "at_0", "init.mu2=0", "init.tau2=0", "steps=1")
    found = [value("at_0", f"population_{name}", 0) for name in ("margin_0", "margin_half", "brier")]
    assert found == [1, 1, 0.25]


def schedule(mine: ModuleType) -> None:
    """Nothing differs before the decay begins; over the whole run it is half the way."""
    decay = mine.StableDecay(decay=0.25)
    t = np.array([0.0, 0.7, 0.75, 0.875, 1.0])
    np.testing.assert_allclose(decay.xi(t, t, 1.0), [1, 1, 1, 0.5, 0])
    for n in ("20", "inf"):
        one, other = (curves(f"decay/width={n},schedule={name}") for name in ("constant", "stable_decay"))
        same = [x == y for x, y in zip(one, other, strict=True)]
        # The first decayed rate is that of the step that begins at t = 0.8 + alpha.
        assert same == [int(row["step"]) <= 41 for row in one]


def dataset(mine: ModuleType) -> None:
    """Labels are the product of the first k coordinates, but for those that are flipped."""
    for flip in (0.0, 0.1):
        x, y = mine.Parity(d=6, k=3, flip=flip).draw(torch.Generator().manual_seed(0), 50_000)
        assert set(x.unique().tolist()) == set(y.unique().tolist()) == {-1.0, 1.0}
        assert float((y != x[:, 0] * x[:, 1] * x[:, 2]).float().mean()) == pytest.approx(flip, abs=0.005)
        assert float(x.mean(0).abs().max()) < 0.02
    problem = mine.Parity(d=8, samples=200, flip=0.1).load(torch.float32, torch.device("cpu"))
    assert {split: tuple(x.shape) for split, (x, _) in problem.data.items()} == {"train": (200, 8), "test": (1000, 8)}
    assert {"train_loss", "test_error"} <= set(rows("finite")[0])
    # It learns it at every width, and the flipped labels of the test set are out of reach.
    assert all(value(f"fresh/width={n}", "population_error") < 0.01 for n in ("10", "20", "inf"))
    assert value("finite", "test_error") > 0.05


def neuron(mine: ModuleType) -> None:
    """The class is the function, and its derivatives are autograd's."""
    assert equal("snake/width=20", "function")
    shapes = ((3, 1), (3, 4), (3, 4))
    theta, h, g = (torch.randn(s, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for s in shapes)
    theta.requires_grad_(), h.requires_grad_()
    by_theta, by_h = torch.autograd.grad(mine.snake((theta,), h), (theta, h), g)
    out = g.clone()
    (found,) = mine.Snake().backward(None, out, (theta.detach(),), h.detach(), out)
    torch.testing.assert_close(found, by_theta)
    torch.testing.assert_close(out, by_h)


def operation(mine: ModuleType) -> None:
    """The class is the function, and its derivatives are autograd's."""
    assert equal("radial/width=20", "function")
    w, a, g = (torch.randn(s, dtype=torch.float64) for s in ((2, 3, 1), (3, 4), (2, 1, 4)))
    operation = mine.Radial(radius=0.7)
    whole = w.expand(2, 3, 4).clone().requires_grad_(), a.expand(2, 3, 4).clone().requires_grad_()
    true = torch.autograd.grad(operation.value(*whole), whole, g.expand(2, 3, 4))
    for found, expected in zip(operation.pull(g, w, a), true, strict=True):
        torch.testing.assert_close(found.expand(2, 3, 4), expected)


def architecture(mine: ModuleType) -> None:
    """The passes are torch's, and the update is autograd's gradient times the widths, for one network and for two."""
    words = ["architecture=normalised", "depth=4", "width=5", "dataset.d=3", "activation=tanh"]
    n, L, rates = 5, 3, [0.1, 0.2, 0.3, 0.4]
    for replicates in (1, 2):
        network = start(*words, "init.tau3=0.5", "init.tau2=2", f"replicates={replicates}")
        W, b = ([array.clone().requires_grad_() for array in arrays] for arrays in (network.W, network.b))
        x, ws = torch.randn((6, 3), dtype=torch.float64), network.workspace(6)
        h = W[0] @ x.T + b[0]
        for l in range(1, L + 1):
            a = torch.tanh(h)
            a = a / (a.square().mean(-2, keepdim=True) + network.eps).sqrt()
            h = W[l] @ a / n + b[l]
        found = network.forward(x, ws)
        torch.testing.assert_close(found.view_as(h), h.detach(), rtol=1e-10, atol=1e-12)
        D = torch.randn(h.shape, dtype=torch.float64)
        (h * D).sum().backward()
        network.descend(x, D.view_as(found), rates, ws)
        for l, (rate, factor) in enumerate(zip(rates, (n, n * n, n * n, n), strict=True)):
            torch.testing.assert_close(network.W[l], W[l].detach() - rate * factor * W[l].grad, rtol=1e-9, atol=1e-11)
            own = n if l < L else 1
            torch.testing.assert_close(network.b[l], b[l].detach() - rate * own * b[l].grad, rtol=1e-9, atol=1e-11)
    losses = [value(f"normalised/width={n}", "population_loss") for n in ("10", "20", "inf")]
    assert all(0 < after < 0.5 for after in losses)


def initial_law(mine: ModuleType) -> None:
    """Mean 0, variance 1, the moments of Laplace's law; and inner weights as the labels ask."""
    law = mine.Laplace()
    x = law.sample((400, 500), torch.Generator().manual_seed(0))
    for k in (4, 15, 16):
        nodes, weights = law.quadrature(k)
        moments = [float((weights * nodes**m).sum()) for m in (0, 1, 2, 4)]
        assert moments[:3] == pytest.approx([1, 0, 1], abs=1e-12)
        assert k == 4 or moments[3] == pytest.approx(6)
    assert [float((x**m).mean()) for m in (1, 2, 4)] == pytest.approx([0, 1, 6], abs=0.15)
    u = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(law.quantile(u), [math.log(0.2) / math.sqrt(2), 0, -math.log(0.2) / math.sqrt(2)])
    network = start("init=rank_one", "depth=3", "width=40", "dataset.d=8", "init.law=mine:Laplace")
    W1, W2 = (array[0] for array in network.W[:2])
    below = W1[:, 0] * math.sqrt(8 / 2)
    # W_2 = 1 + u v^T + noise of deviation 0.1, and v is known: what is left, once u is fitted, is the noise.
    above = (W2 - 1) @ below / below.square().sum()
    assert float((W2 - 1).std()) > 0.5
    assert float((W2 - 1 - torch.outer(above, below)).std()) == pytest.approx(0.1, rel=0.15)


def scaling() -> None:
    """Inner weights start at n^1/2 tau2 in the network's units, its own rates being those of the mean field rows."""
    words = ["scaling=mup", "depth=4", "width=100"]
    _, W2, W3, beta = start(*words).W
    for W in (W2, W3):
        assert float(W.std()) == pytest.approx(math.sqrt(2 * 100), rel=0.05)
    assert float(beta.std()) == pytest.approx(math.sqrt(2), rel=0.3)
    own, mean_field = (assemble(validated(compose([*words[1:], *w], OWN))).rates.factors for w in (words[:1], []))
    assert own == pytest.approx(mean_field)


def logger(mine: ModuleType) -> None:
    """The lines are the rows of metrics.csv, those of before and after the run went on; the sweep has the last ones."""
    for n, steps in (("10", 80), ("inf", 50)):
        run = Path(f"lines/width={n}")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        mine_ = [{k: pytest.approx(float(v), rel=1e-8) for k, v in line.items()} for line in lines]
        assert [{k: float(v) for k, v in row.items()} for row in rows(str(run))] == mine_
        assert lines[-1]["step"] == steps
    last = [json.loads(line) for line in Path("lines/metrics.jsonl").read_text().splitlines()]
    assert [(line["run"], line["step"]) for line in last] == [("width=10", 50), ("width=inf", 50)]


CHECKS: dict[str, Callable[..., None]] = {
    check.__name__: check
    for check in (
        activation,
        loss,
        test_function,
        schedule,
        dataset,
        neuron,
        operation,
        architecture,
        initial_law,
        scaling,
        logger,
    )
}
# It is no test of pytest's.
del test_function


# -- the pages together ----------------------------------------------------------------------------------------------


def test_every_kind_has_a_page() -> None:
    """Each kind of component has one, which the index names in its table and in its list."""
    stems = {page.stem for page in PAGES}
    assert {CALLED.get(kind, kind) for kind in registry._HOMES} == stems
    assert set(CHECKS) == stems
    index = (HOWTO / "index.md").read_text()
    listed = index[index.index("```{toctree}") :]
    for stem in stems:
        assert f"({stem}.md)" in index
        assert f"\n{stem}\n" in listed
    for page in PAGES:
        assert re.match(r"# An? .+ of your own\n", page.read_text()), page.name


def test_the_code_of_the_pages_is_formatted() -> None:
    """As the program's own."""
    pytest.importorskip("ruff")
    for page in PAGES:
        for path, body in files(page).items():
            if path.endswith(".py"):
                for words in (["format", "--check"], ["check"]):
                    config = ["--config", str(ROOT / "pyproject.toml"), "--stdin-filename", path]
                    done = subprocess.run(
                        [sys.executable, "-m", "ruff", *words, *config, "-"],
                        input=body,
                        cwd=ROOT,
                        capture_output=True,
                        text=True,
                    )
                    assert done.returncode == 0, f"{page.name}\n{done.stdout}\n{done.stderr}"


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in HOWTO.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", BLOCK.sub("", page.read_text())):
            assert (HOWTO / target).exists(), f"{page.name}: {target}"
