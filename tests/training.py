"""Training in this process, without a run's folder."""

from __future__ import annotations

import torch
from torch import Tensor

from mfrun.dynamics.experiment import Experiment
from mfrun.networks.network import Network


def advance(e: Experiment, network: Network, marks: list[int]):
    """Train a network, stopping at each of the marks, steps in ascending order."""
    steps, k = e.steps(network, e.stream()), 0
    for mark in marks:
        while k < mark:
            k = steps.advance(k, mark)
        yield mark


def trained(e: Experiment, marks: list[int]) -> Tensor:
    """population_loss at the marks, (marks, networks)."""
    network, evaluator = e.network(), e.evaluator()
    losses = [evaluator(network)["population_loss"] for _ in advance(e, network, marks)]
    return torch.tensor(losses, dtype=torch.float64)
