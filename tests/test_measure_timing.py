"Timing against references, on clocks that the test moves. Nothing here asks how long anything takes."

import gc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.measure import timing
from spectral_diffusion.measure.timing import compare_times, fit_cost, round_order


class Machine:
    "A clock that only work moves."

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        self.log.append("clock")
        return self.now

    def work(self, name, *costs):
        "A function whose calls cost the given seconds in turn."
        calls = []

        def call():
            self.log.append(name)
            self.now += costs[len(calls) % len(costs)]
            calls.append(name)

        return call


@given(st.integers(1, 40))
def test_order_is_a_balanced_latin_square(n):
    rows = np.array([round_order(n, r) for r in range(2 * n)])
    for cycle in (rows[:n], rows[n:]):
        assert (np.sort(cycle, axis=0) == np.arange(n)[:, None]).all() and (
            np.sort(cycle, axis=1) == np.arange(n)
        ).all()
    follows = np.zeros((n, n), dtype=int)
    for row in rows:
        for a, b in pairwise(row):
            follows[a, b] += 1
    assert (follows == 2 * (1 - np.eye(n, dtype=int))).all()
    if n % 2 == 0:  # one cycle is enough for an even number (Williams 1949)
        assert len({p for row in rows[:n] for p in pairwise(row.tolist())}) == n * (n - 1)


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 3), st.integers(1, 3))
def test_every_call_and_every_look_at_the_clock(n, repeats, warmup, number):
    machine, order = Machine(), [*range(1, n), 0]
    race = compare_times(
        {str(i): machine.work(str(i), 0.5 + i) for i in order},
        repeats=repeats,
        warmup=warmup,
        number=number,
        timer=machine.clock,
    )
    expected = [str(i) for i in order for _ in range(warmup)]
    for r in range(repeats):
        for i in round_order(n, r):
            expected += ["clock", *[str(order[i])] * number, "clock"]
    assert machine.log == expected
    assert (
        len(race.table) == n * repeats
        and not race.table.duplicated(["name", "repeat"]).any()
        and not race.table.duplicated(["repeat", "place"]).any()
    )
    assert list(race.summary()["median"].items()) == [(str(i), 0.5 + i) for i in order]


@given(st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999)), min_size=1, max_size=12))
def test_ratio_and_summary_agree_with_numpy(costs):
    a, b = np.array(costs, dtype=float).T
    machine = Machine()
    race = compare_times(
        {"a": machine.work("a", *a), "b": machine.work("b", *b)},
        repeats=len(costs),
        warmup=0,
        number=1,
        timer=machine.clock,
    )
    ratios = np.exp(stats.mstats.mquantiles(np.log(a / b), [0.5, 0.25, 0.75], alphap=1, betap=1))
    np.testing.assert_allclose(race.ratio("a", "b"), ratios, rtol=1e-9)
    low, median, high = np.quantile(a, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(
        race.summary().loc["a", ["median", "low", "high"]].astype(float), [median, low, high], rtol=1e-9
    )
    assert list(race.summary().index) == ["a", "b"]
    np.testing.assert_array_equal(race.seconds("b"), b)


def test_summary_keeps_every_variant_with_its_own_number():
    machine = Machine()
    race = compare_times(
        {"quick": machine.work("quick", 2**-11), "slow": machine.work("slow", 2**-3)},
        repeats=3,
        timer=machine.clock,
    )
    assert race.summary().calls.to_dict() == {
        "quick": 8,
        "slow": 1,
    }  # 4 calls fall just short of two milliseconds
    assert (machine.log.count("quick"), machine.log.count("slow")) == (2 + (1 + 2 + 4 + 8) + 3 * 8, 2 + 1 + 3)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", [0, 1, 3])
def test_threads_and_collector_are_put_back(error, when):
    calls, machine = [], Machine()

    def breaks():
        calls.append((torch.get_num_threads(), gc.isenabled()))
        machine.now += 1
        if len(calls) > when:
            raise error

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError if isinstance(error, ValueError) else KeyboardInterrupt) as caught:
        compare_times(
            {"fine": machine.work("fine", 1.0), "broken": breaks},
            warmup=1,
            number=1,
            threads=before + 2,
            timer=machine.clock,
        )
    assert (torch.get_num_threads(), gc.isenabled()) == (before, True)
    assert calls == [
        (before + 2, True),
        *[(before + 2, False)] * when,
    ]  # on during the warm-up, off under the clock
    if isinstance(error, ValueError):
        assert (
            "variant 'broken' failed: ValueError: x" in str(caught.value) and caught.value.__cause__ is error
        )


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_graphics_card_is_waited_for_before_each_look(device, monkeypatch):
    machine = Machine()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda d=None: machine.log.append(f"wait {d}"))
    compare_times(
        {"a": machine.work("a", 1.0)},
        repeats=2,
        warmup=1,
        number=2,
        clock="wall",
        device=device,
        timer=machine.clock,
    )
    assert machine.log == ["a", *[f"wait {device}", "clock", "a", "a", f"wait {device}", "clock"] * 2]


@pytest.mark.parametrize("clock", ["cpu", "wall"])
def test_the_named_clock_is_read(clock, monkeypatch):
    machines = {name: Machine() for name in timing.CLOCKS}
    for name, machine in machines.items():
        monkeypatch.setitem(timing.CLOCKS, name, machine.clock)
    race = compare_times({"a": machines[clock].work("a", 2.0)}, repeats=3, number=1, clock=clock)
    assert race.seconds("a").tolist() == [2.0] * 3
    assert [name for name, machine in machines.items() if "clock" in machine.log] == [clock]


def test_a_clock_that_runs_back_is_refused():
    machine = Machine()
    with pytest.raises(InputError, match="variant 'back': the clock moved by -1"):
        compare_times(
            {"fine": machine.work("fine", 1.0), "back": machine.work("back", -1.0)},
            number=1,
            timer=machine.clock,
        )


logs = st.lists(st.tuples(st.floats(0, 8), st.floats(-9, 9)), min_size=3, max_size=12)


@given(logs, st.floats(0.5, 0.99))
def test_exponent_and_interval_agree_with_numpy(points, confidence):
    x, y = np.array(points).T
    assume(np.ptp(x) > 0.1)
    fit, (line, cov) = fit_cost(np.exp(x), np.exp(y), confidence=confidence), np.polyfit(x, y, 1, cov=True)
    low, high = stats.t.interval(confidence, len(x) - 2, loc=line[0], scale=max(cov[0, 0] ** 0.5, 1e-300))
    np.testing.assert_allclose(fit, (line[0], low, high), rtol=1e-6, atol=1e-9)


def test_two_sizes_have_a_slope_and_no_interval():
    assert fit_cost([32, 64], [1.0, 8.0]) == pytest.approx((3.0, -np.inf, np.inf))


@pytest.mark.parametrize(
    "sizes, seconds, says",
    [
        ([32, 64], [1.0], "one cost per size"),
        ([32, 32], [1.0, 2.0], "two different sizes"),
        ([], [], "two different sizes"),
        ([0, 1], [1.0, 1.0], "positive"),
        ([1, 2], [1.0, np.nan], "positive"),
        ([1, 2], [1.0, np.inf], "positive"),
    ],
)
def test_bad_points_are_refused(sizes, seconds, says):
    with pytest.raises(InputError, match=says):
        fit_cost(sizes, seconds)
