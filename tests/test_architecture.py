"""An architecture and an initial law of the user's own, each a class in a module beside nothing else of the program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from commands import TINY, here, rows

from mfrun.config import validated
from mfrun.dynamics.experiment import assemble
from mfrun.shell.compose import compose

SKIP = '''
from dataclasses import dataclass

from mfrun.networks import drawing
from mfrun.networks.architecture import Architecture
from mfrun.networks.dense import Dense
from mfrun.networks.init import Layers


class SkipNetwork(Dense):
    """h_{l+1} = b_{l+1} + W_{l+1} a_l / n + a_l between hidden layers."""

    def forward(self, x, ws):
        self.first(x, ws.h[0])
        for l, up in enumerate(ws.up):
            self.sigma[l].forward(ws.h[l], out=ws.a[l])
            up(self.p[l + 1].scale)
            if l + 1 < len(self.widths):
                ws.h[l + 1] += ws.a[l]
        return ws.h[-1]

    def descend(self, x, D, rates, ws):
        ws.D[-1].copy_(D)
        for l in range(len(self.widths), 0, -1):
            ws.down[l - 1](self.p[l + 1].scale)
            if l < len(self.widths):
                ws.D[l - 1] += ws.D[l]
            ws.move[l - 1](-rates[l])
            self.sigma[l - 1].backward(ws.D[l - 1], ws.h[l - 1], ws.a[l - 1], out=ws.D[l - 1])
        self.move_first(x, ws.D[0], -rates[0])
        for shift, rate in zip(ws.shift, rates):
            shift(-rate)


@dataclass
class Skip(Architecture):
    """Dense layers with skip connections."""

    def widths(self, n, depth):
        return [n] * (depth - 1)

    def finite(self, blueprint):
        layers = Layers(blueprint.d, blueprint.n_out, ((),) * blueprint.depth, biases=True)
        drawn = drawing.finite(blueprint, layers, self.widths(int(blueprint.width), blueprint.depth))
        return SkipNetwork(drawn.W, [b.unsqueeze(-1) for b in drawn.b], drawn.p, blueprint.activation)
'''

RANK_ONE = '''
from dataclasses import dataclass

from mfrun.networks.init import IID


@dataclass
class RankOne(IID):
    """W_l[j, i] = mu2 + tau u_j u_i: a label u for each neuron, of layer 1 its first weight, above it drawn."""

    tau: float = 2.0

    def coordinates(self, l, layers, neuron):
        found = super().coordinates(l, layers, neuron)
        return found if l == 1 else found | {"u": 1}

    def labels(self, l, x):
        return x["w"][..., :1] if l == 1 else x["u"]

    @property
    def noise(self):
        return 0.0

    def inner(self, l, above, below):
        return self.mu2 + self.tau * above @ below.mT
'''


@pytest.fixture
def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both modules where Python finds them, and a YAML file for each."""
    for module, text in (("own_skip", SKIP), ("own_law", RANK_ONE)):
        Path(f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
    Path("conf/architecture").mkdir(parents=True)
    Path("conf/architecture/skip.yaml").write_text("# dense layers with skip connections\nname: own_skip:Skip\n")
    Path("conf/init").mkdir()
    Path("conf/init/rank_one.yaml").write_text(
        "# labels\nname: own_law:RankOne\nlaw: normal\ntau1: 1.4\nmu2: 1.0\ntau2: 0.1\nmu3: 0.0\ntau3: 0.0\ntau: 2.0\n"
    )
    monkeypatch.syspath_prepend(str(folder))


OWN = ["--config-dir", "conf"]
SKIPPING = [*TINY, "depth=4", "architecture=skip", "activation=tanh", "dtype=float64", "init.tau3=0.5", "init.tau2=2"]


@pytest.mark.usefixtures("own")
def test_skip_connections_from_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *SKIPPING, "alpha=0.05", "steps=50", "dir=r", *OWN) == 0
    assert float(rows("r")[-1]["population_loss"]) < float(rows("r")[0]["population_loss"])
    assert here("train", "dir=r", "resume=true", "steps=70", *OWN) == 0
    without_width = [word for word in SKIPPING if not word.startswith("width=")]
    assert here("sweep", *without_width, "widths=[3,5]", "steps=5", "dir=s", *OWN) == 0
    capfd.readouterr()
    assert here("sweep", *without_width, "widths=[3,5]", "steps=5", "dir=d", "--dry-run", *OWN) == 0


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("width=inf", "width=inf: architecture=own_skip:Skip does not say how to draw its limit"),
        ("neuron=gate", "neuron=gate: is for dense layers; own_skip:Skip takes bias"),
        ("operation=of_sum", "operation=of_sum: is for dense layers; own_skip:Skip takes product"),
    ],
)
def test_what_it_does_not_say_is_refused(word: str, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert here("train", *SKIPPING, word, "steps=5", "dir=r", *OWN) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"mfrun: {line}")
    assert err.count("\n") == 1
    assert not Path("r").exists()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("replicates", [1, 2])
def test_a_step_of_it_is_autograd_times_the_widths(replicates: int) -> None:
    experiment = assemble(validated(compose([*SKIPPING, f"replicates={replicates}"], OWN)))
    network, n, rates, batch = experiment.network(), 4, [0.1, 0.2, 0.3, 0.4], 5
    W, b = [[a.clone().requires_grad_() for a in arrays] for arrays in (network.W, network.b)]
    x = torch.randn((batch, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    h = W[0] @ x.T + b[0]
    for l in (1, 2):
        a = torch.tanh(h)
        h = b[l] + W[l] @ a / n + a
    yhat = b[3] + W[3] @ torch.tanh(h) / n
    ws = network.workspace(batch)
    found = network.forward(x, ws)
    torch.testing.assert_close(found.view_as(yhat), yhat.detach(), rtol=1e-12, atol=1e-12)
    D = torch.randn(yhat.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (yhat * D).sum().backward()
    network.descend(x, D.view_as(found), rates, ws)
    for l, (rate, factor) in enumerate(zip(rates, (n, n * n, n * n, n), strict=True)):
        torch.testing.assert_close(network.W[l], W[l].detach() - rate * factor * W[l].grad, rtol=1e-12, atol=1e-12)
        own = n if l < 3 else 1
        torch.testing.assert_close(network.b[l], b[l].detach() - rate * own * b[l].grad, rtol=1e-12, atol=1e-12)


def start(n: str, *words: str) -> torch.Tensor:
    """Outputs at step 0 on the evaluation samples, (S, samples)."""
    words = ("init=rank_one", "depth=4", "dataset.d=3", "dtype=float64", f"width={n}", *words)
    experiment = assemble(validated(compose(list(words), OWN)))
    (samples,) = experiment.problem.evaluation(0, 50).values()
    network = experiment.network()
    for x, _ in samples:
        return network.forward(x, network.workspace(len(x), backward=False)).view(network.replicates, -1)
    raise AssertionError


@pytest.mark.usefixtures("own")
def test_inner_weights_that_depend_on_both_neurons() -> None:
    """Finite networks fall onto the law's limit like n^-1/2 (Eq. 66); without the labels it is another one."""
    sizes = ["particles.first=8192", "particles.nodes=40"]
    limit = start("inf", *sizes).mean(0)
    off = {n: float((start(str(n), "replicates=100") - limit).abs().mean()) for n in (25, 400)}
    assert 3 < off[25] / off[400] < 5.3
    unlabelled = start("inf", "init.tau=0", *sizes).mean(0)
    assert float((unlabelled - limit).abs().mean()) > 2 * off[400]
    # The noise of an i.i.d. law is all that is left of it where there are no labels.
    plain = start("7", "init=normal", "init.tau1=1.4", "init.tau2=0")
    assert torch.equal(start("7", "init.tau=0", "init.tau2=0"), plain)
