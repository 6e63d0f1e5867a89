"""Lists on denoisers: exact distances of an oracle, a table that goes on where it ended, a trained run, and
what the benchmark of lists rests on."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from spectral_diffusion.core.config import from_dict
from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.data.sets import DATASETS, TrainTest
from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.run import resolved
from spectral_diffusion.run.experiment import train_run
from spectral_diffusion.run.settings import RunConfig
from spectral_diffusion.sampling.levels import ratio_at
from spectral_diffusion.sampling.list_errors import judged
from spectral_diffusion.sampling.spectrum import Spectrum
from spectral_diffusion.sampling.steps import LISTS
from spectral_diffusion.sampling.transfer import transfer
from spectral_diffusion.study.step_evidence import evidence_of_run, known_rows, step_evidence
from spectral_diffusion.study.step_pairs import (
    Source,
    StepCells,
    check_cells,
    paired,
    starts,
    steps_within,
    times_of,
)

EDM = Process("edm")
FEW = StepCells(
    solvers=("ddim", "heun", "dpm_solver++"),
    lists=("karras", "arc_reweighted", "robust"),
    calls=(5, 8),
    samples=9,
    reference=40,
    extractor="pixels",
)


def gain(solver, sigma, lam):
    "What a run multiplies a coefficient of its start with, by plain loops; a = 1."
    x, last, old = np.ones_like(lam), None, None
    for now, then in zip(sigma[:-1], sigma[1:]):
        answer = lam / (lam + now**2) * x
        if solver == "heun":
            slope = (x - answer) / now
            guess = x + (then - now) * slope
            again = (guess - lam / (lam + then**2) * guess) / then
            x = x + (then - now) * (slope + again) / 2
            continue
        d = answer
        if solver == "dpm_solver++" and last is not None:
            h, before = math.log(now / then), math.log(old / now)
            d = answer + h / (2 * before) * (answer - last)
        x, last, old = then / now * x + (1 - then / now) * d, answer, now
    return x


@pytest.mark.parametrize("size", [(8, 8), (9, 10)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_paired_distance_of_an_oracle_is_its_closed_form(tmp_path, size, channels):
    power = 10 ** (
        3 * torch.rand(channels, *size, dtype=torch.float64, generator=stream(size[1], "power")) - 2
    )
    field = GaussianField(power, size, basis="dct")
    shape, like = (channels, *size), torch.zeros(1).double()
    source = Source(field.denoiser(EDM), EDM, shape, like, 4)
    table = step_evidence(
        source.denoiser, EDM, field, shape, tmp_path / "t.csv", "o", FEW, like=like, chunk=4
    )
    assert len(table) == 3 * 3 * 2 and table.finite.all()
    lam, z = power.numpy(), field.basis.forward(torch.cat(list(starts(source, FEW)))).numpy()

    def sigmas(name, n, solver="dpm_solver++"):
        return ratio_at(EDM, times_of(name, n, source, FEW, field, solver)).numpy()

    far = gain("dpm_solver++", sigmas("log_sigma", FEW.reference), lam) * z
    for row in table.itertuples():
        near = gain(row.solver, sigmas(row.list, row.steps, row.solver), lam) * z
        each = ((near - far) ** 2).mean((1, 2, 3)) / ((far - far.mean(0)) ** 2).mean()
        assert row.paired == pytest.approx(each.mean(), rel=1e-7)
        assert row.paired_error == pytest.approx(each.std(ddof=1) / 3, rel=1e-6)
        assert row.made == row.steps * (2 if row.solver == "heun" else 1) <= row.calls


def noise_row(x, t):
    "A denoiser that is no filter."
    return x.tanh()


def test_a_table_goes_on_where_it_ended(tmp_path):
    field = GaussianField(torch.rand(8, 8, generator=stream(0, "p")).double() + 0.1, (8, 8), basis="dct")
    calls = []

    def counted(x, t):
        calls.append(len(x))
        return noise_row(x, t)

    def measure(cells, network="n", chunk=3):
        return step_evidence(counted, EDM, field, (1, 8, 8), tmp_path / "t.csv", network, cells, chunk=chunk)

    cells = StepCells(
        solvers=("ddim",), lists=("karras", "even"), calls=(4, 5), samples=8, reference=20, extractor="pixels"
    )
    whole = measure(cells)
    reference = 8 * 20 + 8 * 10  # and half of its steps, which says how good it is
    assert sum(calls) == reference + 8 * 2 * (4 + 5)
    calls.clear()
    assert measure(cells).equals(known_rows(tmp_path / "t.csv")) and not calls
    whole.iloc[:3].to_csv(tmp_path / "t.csv", index=False)
    again = measure(cells)
    assert sum(calls) == 8 * 10 + 8 * 5  # the reference is read from its files
    assert again.paired.tolist() == pytest.approx(whole.paired.tolist(), rel=1e-12)
    other = measure(cells, "m")
    assert other.network.tolist() == ["n"] * 4 + ["m"] * 4
    assert other.paired[4:].tolist() == pytest.approx(whole.paired.tolist(), rel=1e-12)
    seed = measure(StepCells(**(cells.__dict__ | {"seed": 1})))
    assert len(seed) == 12 and seed.paired[8] != seed.paired[0]


def test_the_size_of_a_chunk_changes_nothing(tmp_path):
    field = GaussianField(torch.rand(8, 8, generator=stream(0, "p")).double() + 0.1, (8, 8), basis="dct")
    cells = StepCells(
        solvers=("heun",), lists=("karras",), calls=(6,), samples=10, reference=24, extractor="pixels"
    )
    found = []
    for chunk in (1, 3, 10, 64):
        path = tmp_path / f"{chunk}.csv"
        like = torch.zeros(1).double()
        found.append(
            step_evidence(noise_row, EDM, field, (1, 8, 8), path, "n", cells, like=like, chunk=chunk).iloc[0]
        )
    names = ["paired", "paired_error", "floor", "psd_reference", "frechet_reference"]
    for row in found[1:]:
        assert row[names].tolist() == pytest.approx(found[0][names].tolist(), rel=1e-9)


def test_a_run_that_explodes_is_a_row(tmp_path):
    field = GaussianField(torch.ones(8, 8), (8, 8), basis="dct")

    def wild(x, t):
        return torch.full_like(x, math.inf) if t[0] == first else x

    cells = StepCells(
        solvers=("ddim",),
        lists=("karras", "log_sigma"),
        calls=(4,),
        samples=8,
        reference=16,
        extractor="pixels",
    )
    first = LISTS["karras"](4, process=EDM)[2].to(torch.float32)
    table = step_evidence(wild, EDM, field, (1, 8, 8), tmp_path / "t.csv", "w", cells)
    assert table.finite.tolist() == [False, True]
    assert math.isnan(table.paired[0]) and math.isfinite(table.paired[1])
    assert len(step_evidence(wild, EDM, field, (1, 8, 8), tmp_path / "t.csv", "w", cells)) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"solvers": ("ancestral",)}, "without fresh noise"),
        ({"solvers": ("dddim",)}, "did you mean 'ddim'"),
        ({"lists": ("carras",)}, "did you mean 'karras'"),
        ({"calls": (3,), "solvers": ("heun",)}, "at least two steps"),
        ({"calls": ()}, "at least two steps"),
        ({"reference": 60}, "four times"),
        ({"samples": 4}, "at least 8"),
        ({"extractor": "inception"}, "extractor"),
    ],
)
def test_cells_that_cannot_be_measured_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        check_cells(StepCells(**changes))


def test_another_table_is_not_written_over(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    field = GaussianField(torch.ones(8, 8), (8, 8), basis="dct")
    with pytest.raises(InputError, match="no table of step evidence|has no column"):
        step_evidence(noise_row, EDM, field, (1, 8, 8), tmp_path / "t.csv", "n", FEW)
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(
    "solver, calls, clean, steps",
    [("ddim", 7, True, 7), ("heun", 7, True, 4), ("heun", 8, True, 4), ("heun", 7, False, 3)],
)
def test_steps_within_a_budget(solver, calls, clean, steps):
    assert steps_within(solver, calls, clean) == steps


def test_paired_distance_by_hand():
    x, y = torch.tensor([[[[1.0]]], [[[2.0]]]]), torch.tensor([[[[0.0]]], [[[4.0]]]])
    value, error = paired(x, y, y)
    assert value == pytest.approx((1 + 4) / 2 / 4) and error == pytest.approx(
        np.std([0.25, 1], ddof=1) / 2**0.5
    )


@pytest.fixture
def tiny(monkeypatch):
    "A data set of small pictures."

    def images(name, n):
        return torch.rand(n, 1, 8, 8, generator=stream(0, name)) * 1.8 - 0.9

    monkeypatch.setitem(DATASETS._items, "tiny", lambda: TrainTest(images("train", 40), images("test", 16)))
    for known in (resolved.load_images, resolved.fitted_statistics):
        known.cache_clear()
    yield from_dict(
        RunConfig,
        {
            "data": {"name": "tiny", "statistics": 40},
            "train": {"steps": 2, "batch": 2},
            "model": {"name": "conv", "width": 2},
            "schedule": "edm",
            "evaluation": {"images": 4, "points": 1, "samples": 2, "sample_steps": 3},
        },
    )
    for known in (resolved.load_images, resolved.fitted_statistics):
        known.cache_clear()


def test_a_trained_run_is_measured(tiny, tmp_path):
    record = train_run(tiny, tmp_path)
    cells = StepCells(
        solvers=("ddim",), lists=("karras", "robust"), calls=(5,), samples=8, reference=20, extractor="pixels"
    )
    table = evidence_of_run(record.path, tmp_path / "t.csv", cells)
    assert table.network.tolist() == [record.path.name] * 2
    columns = ["paired", "psd_reference", "psd_data", "frechet_data", "floor"]
    assert np.isfinite(table[columns].to_numpy(dtype=float)).all() and (table.floor < table.paired).all()
    assert (
        isinstance(table, pd.DataFrame) and len(evidence_of_run(record.path, tmp_path / "t.csv", cells)) == 2
    )


@pytest.mark.parametrize("solver", ["ddim", "ancestral", "dpm_solver++", "heun", "dpm_solver2"])
@pytest.mark.parametrize("n", [4, 11, 50])
def test_transfer_agrees_with_the_differentiable_form_on_every_list(solver, n):
    "W2 of the samplers' own code against the form that is minimised, from the true marginal and from noise."
    power = 10 ** (5 * torch.rand(1, 12, dtype=torch.float64, generator=stream(n, "powers")) - 3)
    field = GaussianField(power, (1, 12), basis="pixel")
    data = Spectrum(power.flatten(), torch.ones(12).double())
    made = ("karras", "log_sigma", "cosine", "beta", "ays", "tangent", "arc_reweighted")
    made = (*made, "robust", "optimal") if n < 50 else made
    for name in made:
        times = LISTS[name](n, process=EDM, field=data, solver="ddim")
        for initial in ("marginal", "prior"):
            v = transfer(solver, EDM, field, times, start=initial).flatten()
            true = power.flatten() + EDM.gains(times[-1]).s ** 2
            expect = (v.sqrt() - true.sqrt()).square().sum().item()
            found = judged(data, EDM.gains(times), solver, "w2", initial, 0.0).item()
            assert abs(found - expect) <= 1e-12 * max(1.0, power.sum().item())
