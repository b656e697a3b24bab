"""A width that is there more than once, real and stood for by fewer neurons."""

from __future__ import annotations

import math

import hypothesis.strategies as st
from hypothesis import given

from mfrun.study import style
from mfrun.study.widths import beside, once

THERE = st.lists(st.tuples(st.sampled_from([100.0, 1e6, math.inf]), st.sampled_from([None, 16, 64, 256])))


@given(THERE)
def test_each_width_once(there: list[tuple[float, int | None]]) -> None:
    """As its real networks where there are any, else as the most neurons; in whatever order they come."""
    found = once(there)
    assert sorted(n for n, _ in found) == sorted({n for n, _ in there})
    for n, neurons in found:
        of_n = [N for width, N in there if width == n]
        assert neurons == (None if None in of_n else max(of_n))
    assert once(reversed(there)) == found


@given(THERE)
def test_beside_are_those_that_a_rate_leaves_out_for_real_ones(there: list[tuple[float, int | None]]) -> None:
    """What is drawn in dots is stood for, has real networks of its width, and so has no part in a rate."""
    dotted = beside(there)
    assert dotted.isdisjoint(once(there))
    assert all(neurons and (n, None) in there for n, neurons in dotted)
    assert {one for one in there if one not in dotted} >= once(there)


def test_dots_for_what_stands_beside_real_networks() -> None:
    """The line of a width that is only stood for is that of its setting; one beside real networks is in dots."""
    colours = style.colours([100, 1e6])
    figure, _ = style.panels(1, 1, width=3, height=2)
    style.legend(figure, colours, [(100, None), (100, 16), (1e6, 16)], {"": "-"})
    dotted = {line.get_label(): line.is_dashed() for line in figure.legends[0].legend_handles}
    assert dotted == {style.named(100): False, style.named(100, 16): True, style.named(1e6, 16): False}
