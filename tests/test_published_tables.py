"""The page of published tables: its cells, an independent computation of all 160 distances, and rules that
can fail."""

import math
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from spectral_diffusion.data.synthetic import power_law_spectrum
from spectral_diffusion.noise.process import Process
from spectral_diffusion.signals.fourier import bin_weights
from spectral_diffusion.study.benches import best_record, project_root

PAGE = project_root() / "nbs" / "bench" / "b16_published_tables.ipynb"
CLAIMS = project_root() / "nbs" / "bench" / "b17_claims.ipynb"
EIGENVALUES = np.load(project_root() / "nbs" / "bench" / "cifar10_eigenvalues.npy")


@pytest.fixture(scope="module")
def page():
    "The names of the page after all of its code cells, run as they stand: preset smoke, nothing saved."
    names = {}
    for i, cell in enumerate(nbformat.read(PAGE, as_version=4).cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{PAGE.name}, cell {i}", "exec"), names)
    return names


def beta(t):
    return 0.05 + 9.95 * t


def beta_until(t):
    return 0.05 * t + 9.95 * t * t / 2


def marginal(t):
    return np.exp(-2 * beta_until(t)) * EIGENVALUES + 1 - np.exp(-2 * beta_until(t))


def to_data(v):
    return math.sqrt(((np.sqrt(v) - np.sqrt(EIGENVALUES)) ** 2).sum())


def diffusion_step(v, t, u, scheme):
    "Variance after a step of the reverse diffusion."
    if scheme == "euler_maruyama":
        drift = (t - u) * beta(t)
        fresh = 2 * drift
    else:
        step = beta_until(t) - beta_until(u)
        drift, fresh = math.expm1(step), math.expm1(2 * step)
    return (1 + drift * (1 - 2 / marginal(t))) ** 2 * v + fresh


def flow_step(v, t, u, scheme):
    "Variance after a step of the flow."
    first = 1 + (t - u) * beta(t) * (1 - 1 / marginal(t))
    if scheme == "euler_flow":
        return first**2 * v
    slopes = beta(t) * (1 - 1 / marginal(t)) + beta(u) * (1 - 1 / marginal(u)) * first
    return (1 + (t - u) / 2 * slopes) ** 2 * v


def recurrence(scheme, end, times, start):
    "The distance by plain recurrences in numpy, without this library."
    v = marginal(1.0) if start == "p_T" else np.ones_like(EIGENVALUES)
    diffusion = scheme in ("euler_maruyama", "exponential_integrator")
    if times == "exact":
        share = marginal(end) / marginal(1.0)
        if not diffusion:
            return to_data(v * share)
        return to_data(
            marginal(end) + (v - marginal(1.0)) * share**2 * np.exp(2 * (beta_until(end) - beta_until(1.0)))
        )
    grid = np.linspace(1, end, times)
    for t, u in zip(grid[:-1], grid[1:]):
        v = diffusion_step(v, t, u, scheme) if diffusion else flow_step(v, t, u, scheme)
    return to_data(v)


def test_eigenvalues_are_those_of_the_images():
    assert (
        EIGENVALUES.dtype == np.float64 and EIGENVALUES.shape == (3072,) and (np.diff(EIGENVALUES) <= 0).all()
    )
    assert EIGENVALUES[0] == pytest.approx(221.4533, abs=5e-5) and EIGENVALUES.sum() == pytest.approx(
        761.6195, abs=1e-4
    )


def test_all_160_printed_cells(page):
    "Every printed cell against the recurrences."
    cells = page["printed_cells"]()
    assert len(cells) == 160 and len(cells.drop_duplicates(["scheme", "end", "times", "start"])) == 160
    wrong = []
    for cell in cells.itertuples():
        ours = recurrence(cell.scheme, cell.end, cell.times, cell.start)
        if not page["agrees"](ours, cell.printed):
            wrong.append((cell.scheme, cell.end, cell.times, cell.start, cell.printed, ours))
    assert not wrong


def test_the_page_computes_the_same_by_transfer(page):
    "What the samplers' own code gives, against the recurrences, for every cell of the short runs."
    cells = page["cells"]
    assert cells.agrees.all() and len(cells) == 96
    for cell in cells[cells.printed != "0"].itertuples():
        assert cell.ours == pytest.approx(recurrence(cell.scheme, cell.end, cell.times, cell.start), rel=1e-4)


@pytest.mark.parametrize(
    "ours, text, expect",
    [
        (0.4549, "0.45", True),
        (0.4551, "0.45", False),
        (0.4449, "0.45", False),
        (2.549e-3, "2.5E-3", True),
        (2.56e-3, "2.5E-3", False),
        (1e-12, "0", True),
        (1e-6, "0", False),
        (-3.4794, "-3.479", True),
        (2449.4, "2450", False),
    ],
)
def test_the_rule_of_rounding(page, ours, text, expect):
    assert page["agrees"](ours, text) is expect


def test_one_wrong_digit_is_seen(page):
    "Each cell, moved by one unit of its last digit, no longer agrees."
    for cell in page["cells"].itertuples():
        if cell.printed != "0":
            off = float(cell.printed) + 2 * page["half_unit"](cell.printed)
            moved = f"{off:.1E}".replace("E-0", "E-") if "E" in cell.printed else f"{off:.2f}"
            assert not page["agrees"](cell.ours, moved)


def test_other_tables_agree(page):
    assert page["bd"].agrees.all() and page["textbook"].agrees.all() and len(page["textbook"]) >= 50
    assert (page["benita"]["ours over theirs"] < 1.001).all() and page["benita"]["rms log sigma"].max() < 1e-2
    six = page["searched"].query("steps == 6 and solver == 'ipndm'")
    assert (six["GITS over Karras"] > 5).all()
    assert page["calls"] == {18: 35, 40: 79}


def test_textbook_numbers_by_hand(page):
    "The printed ratios and effects from their definitions."
    golf = np.array(page["GOLF"])
    ratio = -10 * np.log10((1 / golf**2).mean(1))
    assert ratio.mean() == pytest.approx(38.181, abs=5e-4)
    rates = np.array(page["FILTRATION"], dtype=float)
    for name, text in page["EFFECTS"].items():
        rows = np.array([[(i >> "ABCD".index(c)) & 1 for c in name] for i in range(16)])
        high = (rows.sum(1) + len(name)) % 2 == 0
        assert rates[high].mean() - rates[~high].mean() == pytest.approx(float(text), abs=1e-12)


def test_tables_are_complete(page):
    assert isinstance(page["ays"], pd.DataFrame) and len(page["ays"]) == 3 * 2 * page["config"].exponents
    assert len(page["searched"]) == 7 * 6 and np.isfinite(page["heat"].loss).all()


@pytest.fixture(scope="module")
def freeu():
    "The filter of the page of claims, alone."
    cells = [cell.source for cell in nbformat.read(CLAIMS, as_version=4).cells if "def freeu(" in cell.source]
    names = {"torch": torch}
    exec(compile(cells[0].split("def wave_gain")[0], CLAIMS.name, "exec"), names)
    return names["freeu"]


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 5), (16, 16)])
@pytest.mark.parametrize("threshold, scale", [(1, 0.2), (2, 0.9)])
def test_freeu_is_the_published_filter(freeu, size, threshold, scale):
    "The code of diffusers, on random features."
    fourier_filter = pytest.importorskip("diffusers.utils.torch_utils").fourier_filter
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(size[0]))
    assert torch.allclose(freeu(x, threshold, scale), fourier_filter(x, threshold, scale), atol=1e-5)
    mirrored = freeu(x.flip(-1), threshold, scale).flip(-1)
    assert (
        mirrored - freeu(x, threshold, scale)
    ).abs().max() > 1e-3  # a mask without symmetry knows left from right


# --- the sections of both pages


def sections(path):
    "Heading of each section -> its cells."
    found, name = {}, None
    for cell in nbformat.read(path, as_version=4).cells:
        heading = re.search(r"^## (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        name = heading[1] if heading else name
        found.setdefault(name, []).append(cell)
    return found


def anchor(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", [PAGE, CLAIMS], ids=lambda p: p.stem)
def test_a_reader_finds_each_section_and_its_sentence(path):
    "The table of contents names every section; each section ends in a sentence that a cell computes."
    found = sections(path)
    listed = re.findall(r"\]\(#([\w-]+)\)", "".join(cell.source for cell in found.pop(None)))
    others = {"Configuration", "Limits"}
    assert set(listed) == {anchor(h) for h in set(found) - others}
    for heading in set(found) - others:
        said = [c.source for c in found[heading] if c.cell_type == "code" and "Markdown(" in c.source]
        assert said and re.search(r'\bf"', said[-1]), heading


def calls_lost(alpha, calls, eta):
    "Error of DDIM (eta 0) or of the ancestral sampler (eta 1) by a plain recurrence."
    power = power_law_spectrum(32, 32, exponent=alpha, variance=0.25).numpy()
    count = bin_weights(32, 32).numpy()
    level = Process("linear").gains(torch.linspace(1, 0, calls + 1, dtype=torch.float64))
    gains = zip(level.a.flatten().tolist(), level.s.flatten().tolist(), strict=True)
    (a, s), *rest = gains
    v = a * a * power + s * s
    for b, r in rest:
        fresh = eta * r / s * math.sqrt(max(s * s - (a / b) ** 2 * r * r, 0.0))
        kept = math.sqrt(r * r - fresh * fresh)
        wiener = a * power / (a * a * power + s * s)
        v = (b * wiener + kept / s * (1 - a * wiener)) ** 2 * v + fresh**2
        a, s = b, r
    true = a * a * power + s * s
    return (count * (np.sqrt(v) - np.sqrt(true)) ** 2).sum() / (count * power).sum()


@pytest.mark.parametrize("alpha", [0.0, 2.0, 3.0])
@pytest.mark.parametrize("run, eta", [("ddim, even", 0.0), ("ancestral, even", 1.0)])
def test_calls_of_the_record_by_plain_recurrences(alpha, run, eta):
    "The number of calls that the record states is the least with an error of a thousandth."
    record = best_record("b17_claims")
    table = pd.read_csv(record.path / "needed.csv").set_index(["exponent", "run"])
    calls = int(table.calls[alpha, run])
    assert calls_lost(alpha, calls, eta) <= 1e-3 < calls_lost(alpha, calls - 1, eta)
    assert table.ten[alpha, run] == pytest.approx(calls_lost(alpha, 10, eta), rel=1e-6)
