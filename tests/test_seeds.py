"""Streams of randomness are told apart by anything in their key."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from mfrun.config import validated
from mfrun.dynamics.experiment import assemble
from mfrun.problems.datasets import IsotropicGaussians
from mfrun.seeds import entropy, generator
from mfrun.shell.compose import compose

KEY = st.tuples(st.sampled_from(["samples", "evaluation"]), st.lists(st.integers(0, 2**40), max_size=4).map(tuple))


@given(KEY, KEY)
def test_different_keys_have_different_seeds(a: tuple[str, tuple[int, ...]], b: tuple[str, tuple[int, ...]]) -> None:
    """Also where one key continues another by zeros, which numpy's SeedSequence would not see."""
    assert (entropy(a[0], *a[1]) == entropy(b[0], *b[1])) == (a == b)
    assert entropy(a[0], *a[1], 0) != entropy(a[0], *a[1])


def test_a_key_is_a_stream() -> None:
    """The same key gives the same numbers."""
    assert torch.equal(torch.randn(5, generator=generator("x", 1)), torch.randn(5, generator=generator("x", 1)))


def test_population_is_measured_on_samples_that_training_never_sees() -> None:
    """Evaluation draws share no number with any training block, though both seeds are 0."""
    problem = IsotropicGaussians(d=16).load(torch.float64, torch.device("cpu"))
    ((x, _),) = list(problem.evaluation(0, 500)["population"])
    seen, stream = set(x.flatten().tolist()), problem.stream(0, 10, "iid")
    drawn = torch.cat([stream.batch(k)[0].flatten() for k in range(1024)]).tolist()
    # Numbers of 24 random bits meet by chance now and then; streams that overlap share every one of the 8000.
    assert sum(v in seen for v in drawn) < 400


def test_predictions_share_no_points_with_the_limit() -> None:
    """Whatever group, layer and set: what is predicted is independent of the limit that it is drawn beside."""
    words = ["dataset.d=3", "width=inf", "particles.first=64", "particles.last=32", "depth=3"]
    e = assemble(validated(compose(words, [])))
    limit = {round(v, 9) for part in e.network().parts for v in part.W[-1].flatten().tolist()}
    for group in (1, 2, 3):
        blueprint = replace(e.blueprint, perturbed=group, replicates=len(e.blueprint.predict.members))
        own = {round(v, 9) for v in e.architecture.draw(blueprint).state()["W3"][0].flatten().tolist()}
        assert len(own) > 16
        assert not own & limit
