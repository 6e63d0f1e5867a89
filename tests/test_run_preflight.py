"""Every combination of names that a configuration offers works, or is refused before anything is trained."""

from dataclasses import replace
from itertools import combinations, product

import pytest
import torch

from spectral_diffusion.core.config import from_dict, override
from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.data.sets import DATASETS, TrainTest
from spectral_diffusion.noise.preconditioning import PRECONDITIONINGS
from spectral_diffusion.noise.schedules import SCHEDULES
from spectral_diffusion.noise.shapes import SHAPES
from spectral_diffusion.noise.targets import TARGETS
from spectral_diffusion.run import experiment, preflight, resolved, training
from spectral_diffusion.run.experiment import rehearse_run, train_run
from spectral_diffusion.run.numbers import CLOCKED
from spectral_diffusion.run.pictures import draw_samples
from spectral_diffusion.run.resolved import build_denoiser, resolve
from spectral_diffusion.run.saved import load_denoiser
from spectral_diffusion.run.settings import RunConfig
from spectral_diffusion.sampling.engine import sample
from spectral_diffusion.sampling.samplers import SAMPLERS
from spectral_diffusion.study.compare import Comparison, compare

SIZE = 8
WARNED = "ignore:Process:UserWarning"  # `still` and `scaled_linear` do not end in noise, and say so


@pytest.fixture
def tiny(monkeypatch):
    "A data set of small pictures."

    def images(name, n):
        return (torch.rand(n, 3, SIZE, SIZE, generator=stream(0, name)) * 2 - 1).clamp(-0.9, 0.9)

    monkeypatch.setitem(DATASETS._items, "tiny", lambda: TrainTest(images("train", 40), images("test", 8)))
    kept = (resolved.load_images, resolved.fitted_statistics)
    for known in kept:
        known.cache_clear()
    yield RunConfig(**{"model": {"name": "conv", "width": 2}, **parts(data="tiny")})
    for known in kept:
        known.cache_clear()


def parts(data):
    "Small sections of a configuration."
    whole = from_dict(
        RunConfig,
        {
            "data": {"name": data, "statistics": 40},
            "train": {"steps": 2, "batch": 2},
            "evaluation": {"images": 4, "points": 1, "samples": 2, "sample_steps": 3},
        },
    )
    return {"data": whole.data, "train": whole.train, "evaluation": whole.evaluation}


def refused(names):
    "What the page on the rehearsal says is refused, as a rule."
    schedule, noise, target, preconditioning, sampler = names
    if preconditioning in ("edm", "views") and noise != "white":
        return True
    lost = {"eps", "v", "edm"} if noise == "band_masked" else {"eps"}
    if preconditioning == "none" and schedule == "flow" and target in lost:
        return True
    return (
        sampler == "analytic"
        or (sampler == "ddpm" and noise == "band_masked")
        or (sampler == "heun" and schedule == "flow")
    )


@pytest.mark.filterwarnings(WARNED)
def test_the_whole_grid_works_or_is_refused(tiny, long):
    """The functions are those of a run. Training, evaluation and saving do not look at the sampler, so they
    are done once for each denoiser; sampling is done for each sampler on the denoiser that they leave. The
    short form takes every seventh denoiser, in which each two names still meet."""
    seen = {}
    grid = list(product(SCHEDULES, SHAPES, TARGETS, PRECONDITIONINGS))
    grid = grid if long else grid[::7]
    for schedule, noise, target, preconditioning in grid:
        config = replace(tiny, schedule=schedule, noise=noise, target=target, preconditioning=preconditioning)
        try:
            setting = resolve(config)
            denoiser = build_denoiser(setting)
            rehearse_run(setting, denoiser)
        except InputError as error:
            assert "hint" in str(error)
            for sampler in SAMPLERS:
                seen[schedule, noise, target, preconditioning, sampler] = True
            continue
        for sampler in SAMPLERS:
            seen[schedule, noise, target, preconditioning, sampler] = False
            try:
                x = preflight.rehearse_sampling(
                    denoiser, (1, 3, SIZE, SIZE), sampler=sampler, steps=3, clip=1.0
                )
            except InputError as error:
                assert "samplers that work here: ancestral, ddim" in str(error)
                seen[schedule, noise, target, preconditioning, sampler] = True
            else:
                assert x.isfinite().all() and x.shape == (1, 3, SIZE, SIZE)
    assert len(seen) == len(grid) * len(SAMPLERS)
    choices = (SCHEDULES, SHAPES, TARGETS, PRECONDITIONINGS)
    for i, j in combinations(range(len(choices)), 2):
        assert {(names[i], names[j]) for names in grid} == set(product(choices[i], choices[j]))
    assert {k for k, v in seen.items() if v} == {k for k in seen if refused(k)}


def test_a_rehearsal_asks_the_data_for_nothing(tiny, monkeypatch):
    "A setting is resolved once: what is below it loads nothing by name again."
    setting = resolve(replace(tiny, noise="equal_snr", preconditioning="spectral"))
    denoiser = build_denoiser(setting)

    def gone(name, *_):
        raise AssertionError(f"asked for the images of {name}")

    monkeypatch.setattr(resolved, "load_images", gone)
    monkeypatch.setattr(resolved, "fitted_statistics", gone)
    rehearse_run(setting, denoiser)


def test_a_run_loads_its_images_once(tiny, tmp_path, monkeypatch):
    "From first step to last file a run asks for its data set by name twice: itself, and its statistics."
    asked = []
    monkeypatch.setattr(resolved, "load_images", lambda name: asked.append(name) or DATASETS[name]())
    train_run(replace(tiny, preconditioning="spectral"), tmp_path)
    assert asked == ["tiny", "tiny"]
    asked.clear()
    train_run(replace(tiny, seed=1), tmp_path)
    assert asked == ["tiny"]


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_works(name):
    """By the test above one combination with all statistics stands for the others; a data set that is not
    here says how to get it."""
    config = RunConfig(
        **{
            "model": {"name": "conv", "width": 2},
            "noise": "equal_snr",
            "preconditioning": "spectral",
            **parts(data=name),
        }
    )
    try:
        setting = resolve(config)
    except InputError as error:
        assert name.startswith(("cifar10", "wallpaper")) and "hint" in str(error)
    else:
        assert setting.held_out.x0.shape[1:] == setting.size == (3, 32, 32)
        rehearse_run(setting, build_denoiser(setting))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"name": "unet_spectral_published", "base": 2}},
        {"noise": "equal_snr", "preconditioning": "spectral", "evaluation.sampler": "ancestral"},
    ],
    ids=str,
)
def test_a_run_does_not_notice_its_rehearsal(tiny, tmp_path, monkeypatch, changes):
    "Bit for bit, running means included."
    config = override(tiny, changes)
    torch.manual_seed(3)
    one, chance = train_run(config, tmp_path / "with"), torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(chance, torch.get_rng_state())
    monkeypatch.setattr(experiment, "rehearse", lambda *args, **options: None)
    other = train_run(config, tmp_path / "without")
    files = {p.relative_to(one.path) for p in one.path.rglob("*") if p.suffix in (".safetensors", ".png")}
    assert len(files) == 2 and all(
        (one.path / f).read_bytes() == (other.path / f).read_bytes() for f in files
    )
    assert {**one.metrics, **dict.fromkeys(CLOCKED)} == {**other.metrics, **dict.fromkeys(CLOCKED)}
    assert one.history().drop(columns="seconds").equals(other.history().drop(columns="seconds"))


LATE = {
    "flow and heun": {"schedule": "flow", "target": "v", "evaluation.sampler": "heun"},
    "flow and eps": {"schedule": "flow"},
    "analytic": {"evaluation.sampler": "analytic"},
    "a masked band and ddpm": {"noise": "band_masked", "evaluation.sampler": "ddpm"},
    "a time weight and shaped noise": {"noise": "offset", "train.time_weight": "min_snr"},
    "a filter of another size": {"model": {"name": "mixer", "kind": "filter", "size": 16}},
    "statistics without power": {"noise": "equal_snr", "data.statistics": 2},
    "more images than there are": {"evaluation.images": 9},
    "an endless learning rate": {"train.lr": 1e38},
    "features of another size": {"evaluation.extractor": "cifar10", "evaluation.samples": 8},
}


@pytest.mark.parametrize("name", LATE)
def test_nothing_is_trained_or_written_when_a_run_cannot_end(tiny, tmp_path, monkeypatch, name):
    if (
        name == "statistics without power"
    ):  # of two pictures that are alike in all but one row of coefficients
        flat = torch.zeros(40, 3, SIZE, SIZE)
        flat[0] = 0.5
        monkeypatch.setitem(DATASETS._items, "tiny", lambda: TrainTest(flat, flat[:8]))
        resolved.load_images.cache_clear()
    monkeypatch.setattr(training, "train", lambda *args, **options: pytest.fail("trained"))
    with pytest.raises(InputError):
        train_run(override(tiny, LATE[name]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_arm_is_rehearsed_before_the_first_is_trained(tiny, tmp_path, monkeypatch):
    arms = {"plain": {}, "late": {"evaluation.sampler": "analytic"}}
    with pytest.raises(InputError, match="samplers that work here"):
        compare(Comparison(bench="arms", seeds=2, jobs=1, arms=arms, run=tiny), tmp_path, on="cpu")
    assert not list(tmp_path.iterdir())


def test_a_probe_of_a_sweep_is_a_rehearsal(tiny, tmp_path):
    from spectral_diffusion.study.studies import answer_probe

    with pytest.raises(InputError, match="samplers that work here"):
        answer_probe(tmp_path, override(tiny, {"evaluation.sampler": "analytic"}), 0.5)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        answer_probe(tmp_path, tiny, 0.5)


@pytest.mark.filterwarnings(WARNED)
@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation.sample_steps": 1},
        {"evaluation.clip": 0.0},
        {"evaluation.clip": 3.0},
        {"train.ema": 0.0},
        {"train.batch": 1},
        {"train.batch": 100},
        {"train.decay": "cosine"},
        {"evaluation.samples": 1},
        {"evaluation.images": 1},
        {"seed": -1},
        {"seed": 2**70},
        {"train.frequency_weight": "low"},
        {"train.time_weight": "min_snr"},
        {"train.on_nan": "skip"},
        {"train.warmup": 10},
    ],
    ids=str,
)
def test_what_is_at_the_edge_and_works_is_not_refused(tiny, tmp_path, changes):
    for sampler in SAMPLERS:
        if sampler != "analytic":
            setting = resolve(override(tiny, changes | {"evaluation.sampler": sampler}))
            rehearse_run(setting, build_denoiser(setting))
    assert train_run(override(tiny, changes), tmp_path).metrics["loss"] > 0


def test_noise_of_the_spectrum_of_the_data_is_kept_with_the_network(tiny, tmp_path, monkeypatch):
    "A run with equal_snr is sampled without its training data, to the bit."
    record = train_run(replace(tiny, noise="equal_snr"), tmp_path)
    before = resolve(replace(tiny, noise="equal_snr")).process.factor
    for name in ("load_images", "fitted_statistics"):
        monkeypatch.setattr(resolved, name, lambda *args: pytest.fail("asked for the data"))
    denoiser = load_denoiser(record)
    assert torch.equal(denoiser.process.factor, before) and denoiser.process.shape == "equal_snr"
    draw_samples(denoiser, 1, steps=2, size=(3, SIZE, SIZE))


class Net(torch.nn.Module):
    channels = 1

    def forward(self, x, t):
        return 0.1 * x


def test_a_target_that_divides_by_zero_is_refused_where_it_would():
    from spectral_diffusion.noise.denoiser import wrap
    from spectral_diffusion.noise.process import Process

    plain = wrap(Net(), Process("flow"), "eps")
    assert (
        plain(torch.ones(2, 1, SIZE, SIZE), torch.full((2,), 0.98)).isfinite().all()
    )  # below t = 1 all is well
    with pytest.raises(InputError, match="targets that work are x0, v, flow, edm"):
        sample(plain, plain.process, (1, 1, SIZE, SIZE), steps=4, generator=stream(0, "a"))
    for target, preconditioning in [("v", "none"), ("eps", "edm")]:
        denoiser = wrap(Net(), Process("flow"), target, preconditioning)
        assert (
            sample(denoiser, denoiser.process, (1, 1, SIZE, SIZE), steps=4, generator=stream(0, "a"))
            .isfinite()
            .all()
        )
