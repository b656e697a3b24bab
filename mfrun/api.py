"""mfrun from Python: runs and sweeps as objects, trained from here or read from where a command has left them.

>>> import mfrun
>>> sweep = mfrun.sweep(["dataset=gaussians", "widths=[50,100,inf]", "steps=1000"])
>>> sweep.frame.groupby("width").population_loss.last()
>>> mfrun.plot(sweep, metrics="population_loss").savefig("loss.pdf")
"""

from __future__ import annotations

import argparse
import operator
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from mfrun.config import flatten, parse_width, stood_label
from mfrun.errors import UserError, typed
from mfrun.files import plain
from mfrun.runs.directory import RunDirectory, find_runs, newest, read_sweep
from mfrun.runs.progress import WRITES_TO
from mfrun.shell import commandline, options

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from mfrun.dynamics.experiment import Experiment
    from mfrun.networks.network import Network
    from mfrun.study.curves import Curve

    Floats = NDArray[np.floating[Any]]

# Runs that an error names; mfrun status lists them all.
FEW = 4


@contextmanager
def _torch_kept() -> Iterator[None]:
    """``threads=`` and ``precision=`` are of the run in hand; the program around it has its own again afterwards."""
    import torch

    from mfrun.networks.products import switches_kept

    before = torch.get_num_threads()
    try:
        with switches_kept():
            yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Prediction:
    """Outputs of a trained network.

    Attributes:
        yhat: (replicates, samples, outputs).
        bar: for n = infinity the half-width of its 95 % interval, of the same shape; None for a finite width.
    """

    yhat: Floats
    bar: Floats | None


@dataclass(frozen=True)
class Hidden:
    """A hidden layer at some inputs.

    Attributes:
        h: pre-activations (networks, neurons, samples), or (networks, neurons, height, width, samples) of a CNN; at
            n = infinity the union of the particle sets, or without one the sets of a replicate side by side.
        a: what the layer makes of them, of the same shape but where it pools.
        p: the measure of the neurons (networks, neurons); every row sums to 1.
    """

    h: Floats
    a: Floats
    p: Floats


@dataclass(frozen=True)
class LayerKernels:
    """Kernels of the hidden layers at P samples.

    Attributes:
        step: of the evaluation.
        features: (replicates, L, P, P), E_p[a_l(x) a_l(x')] over the neurons of layer l.
        gradients: (replicates, L, P, P), E_p[D_l(x) D_l(x')], D_l the backward signal of each sample's loss.
        features_bar, gradients_bar: for n = infinity half-widths of their 95 % intervals, else None.
    """

    step: int
    features: Floats
    gradients: Floats
    features_bar: Floats | None = None
    gradients_bar: Floats | None = None


class Run:
    """A run on disk, finished or not.

    Args:
        path: its folder.

    Raises:
        UserError: there is no run.
    """

    def __init__(self, path: str | Path, experiment: Experiment | None = None) -> None:
        # Programs change their working folder; the run stays where it is.
        self.directory, self._experiment = RunDirectory(Path(path).absolute()), experiment
        self._shown = path
        if not self.directory.exists():
            raise UserError(f"{path}: no run here")

    def __repr__(self) -> str:
        status = self.status
        n = stood_label(self.width, self.neurons)
        return f"<Run {self._shown}: n = {n}, {status['state']}, step {status.get('step', 0)}>"

    @property
    def path(self) -> Path:
        """Its folder, absolute."""
        return self.directory.path

    @property
    def width(self) -> float:
        """n, or ``math.inf``."""
        return parse_width(self.config["width"])

    @property
    def neurons(self) -> int | None:
        """N, where N neurons a layer stand for n; None where the network is real, or the limit."""
        return self.config.get("neurons")

    @property
    def config(self) -> dict[str, Any]:
        """The keys that decide what it computes, nested as in the YAML files."""
        return plain(self.directory.config())

    @property
    def status(self) -> dict[str, Any]:
        """How it stands: ``state``, ``step``, ``steps``, the latest metrics, speed."""
        return self.directory.status()

    @property
    def steps(self) -> list[int]:
        """The steps whose states are on disk."""
        return self.directory.saved_steps()

    @property
    def frame(self) -> pd.DataFrame:
        """metrics.csv with a column ``width`` in front: a row for each evaluation and replicate.

        A column ``neurons`` follows it where so many neurons a layer stand for that width.
        """
        frame, config = self.directory.metrics(), self.config
        frame.insert(0, "width", parse_width(config["width"]))
        if config.get("neurons") is not None:
            frame.insert(1, "neurons", config["neurons"])
        return frame

    @_torch_kept()
    def network(self, step: int | None = None) -> Network:
        """The network as it was at a step, by default the last that was saved.

        Raises:
            UserError: no such state.
        """
        return self._restored(step)[1]

    @_torch_kept()
    def predict(self, x: Any, step: int | None = None) -> Prediction:
        """Outputs at inputs of your own.

        Args:
            x: (samples, ...) as the data set has them before anything is done to them: uint8 pixels, or floats.
            step: of the state, by default the last.

        Raises:
            UserError: the inputs are no samples of this data set, or there is no such state.
        """
        import torch

        from mfrun.dynamics.evaluate import of_sets
        from mfrun.problems.problem import CHUNK

        experiment, network = self._restored(step)
        inputs = experiment.problem.inputs(_samples(x))
        every = network.outputs(torch.split(inputs, CHUNK)).movedim(-1, -2).double()
        mean, bar = of_sets(every, experiment.sets, experiment.blueprint.union)
        return Prediction(mean.cpu().numpy(), None if bar is None else bar.cpu().numpy())

    @_torch_kept()
    def hidden(self, x: Any, layer: int, step: int | None = None) -> Hidden:
        """A hidden layer at inputs of your own.

        Args:
            x: as for :meth:`predict`; held in memory at once.
            layer: l = 1 .. L.
            step: of the state, by default the last.

        Raises:
            UserError: no such layer or state, or inputs that are no samples of this data set.
        """
        experiment, network = self._with_layer(layer, step)
        return _hidden(network, experiment.problem.inputs(_samples(x)), layer)

    @_torch_kept()
    def features(self, layer: int, step: int | None = None, replicate: int = 0) -> dict[str, Any]:
        """Its data set as a hidden layer sees it: what ``numpy.savez`` writes for ``dataset=arrays``.

        Args:
            layer: l = 1 .. L, whose a_l becomes a row of numbers for each sample; of a CNN channels first.
            step: of the state, by default the last.
            replicate: whose.

        Returns:
            ``x_train`` and ``x_test``, float32 (samples, features), and ``y_train`` and ``y_test``.

        Raises:
            UserError: no such layer, state or replicate; the network is the limit, whose neurons are not n of equal
                weight; or the data set draws its samples, so that there is none to write.
        """
        import torch

        from mfrun.problems.problem import CHUNK, FiniteProblem

        experiment, network = self._with_layer(layer, step)
        problem = experiment.problem
        if not isinstance(problem, FiniteProblem):
            raise UserError(f"{self._shown}: its data set draws fresh samples; features are those of a fixed set")
        if self.width == np.inf or self.neurons is not None:
            raise UserError(f"{self._shown}: features are those of n real neurons; it stands for {self.width:g}")
        there = f"the replicates are 0 to {network.replicates - 1}"
        replicate = _whole("replicate", replicate, there)
        if not 0 <= replicate < network.replicates:
            raise UserError(f"replicate={replicate}: {there}")
        arrays: dict[str, Any] = {}
        for split, (_, y) in problem.data.items():
            chunks = torch.split(torch.arange(len(y), device=problem.device), CHUNK)
            rows = [_hidden(network, problem.gather(index, split)[0], layer).a[replicate] for index in chunks]
            parts = [np.moveaxis(a, -1, 0).reshape(a.shape[-1], -1).astype(np.float32) for a in rows]
            arrays[f"x_{split}"] = np.concatenate(parts)
            labels = y.cpu().numpy()
            arrays[f"y_{split}"] = labels if problem.classes is None else np.array(problem.classes)[labels]
        return arrays

    def kernels(self, step: int | None = None) -> LayerKernels:
        """The kernels of the hidden layers at the fixed samples of ``evaluation.kernels``.

        Args:
            step: of an evaluation, by default the last.

        Raises:
            UserError: none were taken, or none at this step.
        """
        there = self.directory.kernel_steps()
        if step is None and not there:
            raise UserError(f"{self._shown}: no kernels here; evaluation.kernels=P asks for those of P samples")
        at = there[-1] if step is None else _whole("step", step)
        return LayerKernels(at, **self.directory.kernels(at))

    def _with_layer(self, layer: int, step: int | None) -> tuple[Experiment, Network]:
        """The first part of a network that has this hidden layer."""
        experiment, network = self._restored(step)
        network = network.parts[0]
        there = f"the hidden layers are 1 to {len(network.widths)}"
        if not 1 <= _whole("layer", layer, there) <= len(network.widths):
            raise UserError(f"layer={layer}: {there}")
        return experiment, network

    def _restored(self, step: int | None) -> tuple[Experiment, Network]:
        from mfrun.dynamics.experiment import load_into, restore

        step = None if step is None else _whole("step", step)
        if self._experiment is None:
            self._experiment, network, _ = restore(self.directory, step)
        else:
            network = self._experiment.network()
            load_into(network, self.directory, step)
        return self._experiment, network


class Sweep(Sequence[Run]):
    """The runs of a sweep, or any runs below a folder, in the order of their keys and widths.

    Args:
        path: the folder.

    Raises:
        UserError: there are no runs.
    """

    def __init__(self, path: str | Path) -> None:
        # Programs change their working folder; the sweep stays where it is.
        self.path, self._shown = Path(path).absolute(), path
        runs = [Run(found.path) for found in find_runs(path)]
        configs = [run.config for run in runs]
        named = [_names(config) for config in configs]
        flat = [{**flatten(config), **names} for config, names in zip(configs, named, strict=True)]
        swept = (read_sweep(self.path) or {}).get("swept")
        if swept is None:
            every = dict.fromkeys(key for keys in flat for key in keys)
            swept = [key for key in every if len({repr(keys.get(key)) for keys in flat}) > 1]
        self.swept = [key for key in map(str, swept) if key != "width"]
        if any(key in names or key not in keys for key in self.swept for keys, names in zip(flat, named, strict=True)):
            # Options of a group may be the same component with other keys.
            flat = [{**keys, **run.directory.choices()} for keys, run in zip(flat, runs, strict=True)]
        values = {run.path: {key: keys.get(key) for key in self.swept} for run, keys in zip(runs, flat, strict=True)}
        self._values = values
        self.runs = sorted(runs, key=lambda run: ([_order(v) for v in values[run.path].values()], run.width))

    def __repr__(self) -> str:
        # Those that it has not come to yet are among them.
        every = list(find_runs(self.path, waiting=True))
        done = sum(run.done() for run in every)
        return f"<Sweep {self._shown}: {', '.join(['width', *self.swept])}; {done} of {len(every)} runs done>"

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...

    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        return self.runs[index]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @property
    def config(self) -> dict[str, Any]:
        """What the command line asked for: ``overrides``, ``swept``, ``title``; empty where it was no sweep."""
        return read_sweep(self.path) or {}

    @property
    def status(self) -> pd.DataFrame:
        """How the runs stand, a row each."""
        import pandas as pd

        return pd.DataFrame([{"run": run.path.name, "width": run.width, **run.status} for run in self.runs])

    @property
    def frame(self) -> pd.DataFrame:
        """One tidy table: a row for each run, evaluation and replicate, with the width and each swept key in front.

        Lists are there as the text that a command line has, ``"[1, 1, 2]"``, by which rows can be grouped.
        """
        import pandas as pd

        frames = []
        for run in self.runs:
            frame = run.frame
            for place, (key, value) in enumerate(self._values[run.path].items(), 1):
                if key not in frame:
                    frame.insert(place, key, [typed(value) if isinstance(value, list) else value] * len(frame))
            frames.append(frame)
        whole = pd.concat(frames, ignore_index=True)
        if "neurons" in whole:
            whole.insert(1, "neurons", whole.pop("neurons"))
        return whole

    def curves(self) -> list[Curve]:
        """The runs as ``mfrun plot`` groups them: all replicates and seeds of one width and one setting together."""
        from mfrun.study.curves import load as load_curves

        return load_curves([str(self.path)], latest=False)[0]


def load(path: str | Path | None = None) -> Run | Sweep:
    """A run, or the runs of a sweep (or below any folder).

    Args:
        path: the folder; by default the newest run or sweep below ``outputs``.

    Raises:
        UserError: there is none.
    """
    path = newest() if path is None else path
    return Run(path) if RunDirectory(path).exists() else Sweep(path)


@_torch_kept()
def train(overrides: Sequence[str]) -> Run:
    """``mfrun train`` with these words, in this process.

    Raises:
        UserError: what the command says in one line.
    """
    from mfrun.sweeps import launch

    words = launch.with_latest(_words(overrides), "train")
    trained = launch.train_run(*commandline.split(words))
    return Run(trained.folder.path, trained.experiment)


def sweep(overrides: Sequence[str]) -> Sweep:
    """``mfrun sweep`` with these words.

    It runs in a process of its own: its runs are copies of a process that has used no threads, as this one may have.
    Modules of your own are looked for there where they are here, along ``sys.path``.

    Raises:
        UserError: what the command says in one line; or runs failed, or the system killed it.
        KeyboardInterrupt: it was asked to stop; what trains saves its state first, and ``resume=true`` goes on.
    """
    command = [sys.executable, "-m", "mfrun", "sweep", *_words(overrides)]
    places = dict.fromkeys(str(Path(place).absolute()) for place in sys.path if isinstance(place, str))
    # Ctrl-C reaches this process alone in a notebook, and its whole group in a terminal. The sweep is of another group,
    # and hears of it from here: once is enough to stop, and twice would not wait for the states.
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    top, said, stopped = _heard(process)
    code = process.wait()
    # A process that ends before it listens to a signal ends by the signal itself.
    if stopped or any(code in (128 + asked, -asked) for asked in (signal.SIGINT, signal.SIGTERM)):
        raise KeyboardInterrupt(said)
    if code < 0:
        raise UserError(f"{top or 'mfrun sweep'}: was killed by signal {-code}; resume=true goes on")
    if code == 2 or not top:
        raise UserError(said.removeprefix("mfrun: "))
    if code not in (0, 3):  # Where all runs diverged they are there to be looked at, as one that diverged is.
        raise UserError(_failed(top) or said.removeprefix("mfrun: "))
    return Sweep(top)


def plot(what: Run | Sweep | str | Path | Sequence[str | Path], **chosen: Any) -> Figure:
    """The picture of ``mfrun plot``.

    Args:
        what: a run, a sweep, a folder or several.
        chosen: the options of the command, ``metrics="test_loss"``, ``weights=True``; the picture is written where
            ``out="curves.pdf"`` says so.

    Raises:
        UserError: what the command says in one line.
    """
    from mfrun.study import style
    from mfrun.study.plot import draw

    args = _parsed(options.plot(), what, chosen, {"format": "the ending of out= says it"})
    figure = draw(args)[0]
    if args.out:
        style.save(figure, Path(args.out), args.dpi)
    return figure


def compare(what: Run | Sweep | str | Path | Sequence[str | Path], **chosen: Any) -> pd.DataFrame:
    """The table of ``mfrun compare``: a row for each metric, setting and width.

    Args:
        what: a sweep, a folder or several.
        chosen: the options of the command, ``tolerance=0.1``, but for those of its files.

    Raises:
        UserError: what the command says in one line.
    """
    from mfrun.study.compare import measure

    elsewhere = dict.fromkeys(("out", "format", "predict"), "the table is returned, and mfrun compare writes files")
    return measure(_parsed(options.compare(), what, chosen, elsewhere)).table


def _words(overrides: Sequence[str]) -> list[str]:
    """Raises UserError where it is no list of words that train something."""
    listed = isinstance(overrides, Sequence) and not isinstance(overrides, str)
    if not listed or not all(isinstance(word, str) for word in overrides):
        raise UserError(f"{overrides!r}: takes a list of words, as in ['dataset=mnist', 'depth=4']")
    for word in overrides:
        if word in ("--help", "-h", "--dry-run") or commandline.prints(word):
            raise UserError(f"{word}: is for the command line; from Python it trains nothing")
    return list(overrides)


def _heard(process: subprocess.Popen[str]) -> tuple[str, str, bool]:
    """Pass on what a command says, to its end, and Ctrl-C to it.

    Returns:
        The folder that it writes to, its last line, and whether it was asked to stop.
    """
    top = said = ""
    stopped = False
    assert process.stderr is not None
    while True:
        try:
            for said in process.stderr:
                print(said, end="", file=sys.stderr)
                top = top or (said.strip().removeprefix(WRITES_TO) if said.startswith(WRITES_TO) else "")
            return top, said.strip(), stopped
        except KeyboardInterrupt:
            stopped = True
            process.send_signal(signal.SIGINT)


def _failed(top: str) -> str:
    """Which runs of a sweep have not come to their end; empty where it did not get as far, or all have."""
    try:
        left = [run.path.name for run in find_runs(top, waiting=True) if not run.done()]
    except UserError:  # It stopped before it had written what its runs are.
        return ""
    if not left:
        return ""
    names = ", ".join(left[:FEW]) + (f" and {len(left) - FEW} more" if len(left) > FEW else "")
    return f"{top}: {names} failed; {shlex.join(['mfrun', 'status', top])}"


def _whole(name: str, value: Any, allowed: str = "") -> int:
    """An argument that counts something.

    Args:
        name: of the argument.
        value: as it was given; numpy's whole numbers are some.
        allowed: which there are, in a few words.

    Raises:
        UserError: it is no whole number.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise UserError(f"{name}={value!r}: must be a whole number" + (f"; {allowed}" if allowed else "")) from error


def _samples(x: Any) -> torch.Tensor:
    """Inputs of a user's own as an array of samples.

    Raises:
        UserError: they are none.
    """
    import torch

    try:
        found = x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(_for_torch(np.asarray(x)))
    except (TypeError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"inputs: an array of samples, not {type(x).__name__} ({why})") from error
    if found.dim() == 0 or not len(found):
        raise UserError(f"inputs of shape {tuple(found.shape)}: hold no sample")
    return found


def _for_torch(array: np.ndarray) -> np.ndarray:
    """An array as torch can share it: forward in memory, of this machine's bytes, and one that may be written to."""
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])


def _hidden(network: Network, inputs: torch.Tensor, layer: int) -> Hidden:
    """A hidden layer of a network at inputs (samples, d)."""
    # A backward pass may follow, so that the layers keep what they hold.
    ws = network.workspace(len(inputs), backward=True)
    network.forward(inputs, ws)

    def stacked(array: torch.Tensor) -> Floats:
        # A dense network by itself has no axis of replicates.
        array = array if array.dim() > 2 else array.unsqueeze(0)
        return array.clone().cpu().numpy()

    return Hidden(stacked(ws.h[layer - 1]), stacked(ws.a[layer - 1]), network.probabilities(layer).numpy())


def _parsed(
    parser: argparse.ArgumentParser, what: Any, chosen: dict[str, Any], elsewhere: dict[str, str]
) -> argparse.Namespace:
    """Options given as keywords, as the command's parser reads them.

    Args:
        parser: the command's.
        what: runs, sweeps and folders.
        chosen: the options, by their names.
        elsewhere: those that have no meaning here, and what there is in their place.

    Raises:
        UserError: one of these is given, or something that the command would not understand.
    """
    several = what if isinstance(what, Sequence) and not isinstance(what, (str, Sweep)) else [what]
    folders = [str(one.path if isinstance(one, (Run, Sweep)) else one) for one in several]
    words = list[str]()
    repeated = {a.dest for a in parser._actions if isinstance(a, argparse._AppendAction)}
    # The parser would print its own help and end the program.
    elsewhere = {**elsewhere, "help": f"{parser.prog} --help lists the options"}
    parser.allow_abbrev = False
    for key, value in chosen.items():
        option = f"--{key.replace('_', '-')}"
        if value is False or value is None:
            continue
        if key in elsewhere:
            raise UserError(f"{key}=: has no meaning from Python; {elsewhere[key]}")
        if value is True:
            words.append(option)
        else:
            listed = value if isinstance(value, (list, tuple)) else [value]
            # Texts are options of their own where the command takes several; two numbers are a range.
            each = key in repeated and all(isinstance(v, str) for v in listed)
            words += [f"{option}={v}" for v in (listed if each else [",".join(map(str, listed))])]
    # Behind the two dashes no name is an option.
    return parser.parse_args([*words, "--", *folders])


def _names(config: dict[str, Any]) -> dict[str, Any]:
    """The names of the components, by the keys that choose them."""
    return {key: node["name"] for key, node in config.items() if isinstance(node, dict) and "name" in node}


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers before texts, by their size."""
    number = isinstance(value, (int, float))
    return not number, float(value) if number else 0.0, str(value)
