"Lists of steps for other programs: real schedulers of diffusers, the command, files of all kinds, bad input."

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import stream
from spectral_diffusion.data.synthetic import make, power_law_spectrum
from spectral_diffusion.lab import cli
from spectral_diffusion.lab.folder_spectrum import Sums, folder_spectrum
from spectral_diffusion.lab.set_steps import forget_steps, set_steps
from spectral_diffusion.lab.step_range import schedule_range
from spectral_diffusion.lab.step_report import step_report
from spectral_diffusion.lab.step_sources import read_spectrum
from spectral_diffusion.noise.theory import GaussianField

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is needed for this comparison: pip install -e '.[diffusers]' in a checkout"
)
from spectral_diffusion.lab.scheduler_levels import levels_used  # noqa: E402
from spectral_diffusion.lab.schedulers import SCHEDULERS  # noqa: E402
from spectral_diffusion.lab.step_arguments import scheduler_arguments  # noqa: E402

CHAIN = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FIELD = GaussianField(power_law_spectrum(16, 16, exponent=2.0), (16, 16))
ROUNDED = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
)
REAL = [
    *(("EulerDiscreteScheduler", {**CHAIN, **more}) for more in ({}, {"rescale_betas_zero_snr": True})),
    ("EulerDiscreteScheduler", {**CHAIN, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("EulerDiscreteScheduler", {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    ("HeunDiscreteScheduler", CHAIN),
    *((name, CHAIN) for name in ROUNDED),
    ("DPMSolverMultistepScheduler", {**CHAIN, "solver_order": 3, "algorithm_type": "sde-dpmsolver++"}),
    ("EDMEulerScheduler", {}),
    ("EDMEulerScheduler", {"sigma_min": 0.01, "sigma_max": 200.0, "rho": 5.0}),
    *(("FlowMatchEulerDiscreteScheduler", {"shift": s}) for s in (1.0, 3.0, 12.0)),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 2.0, "invert_sigmas": True}),
    ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}),
    ("FlowMatchLCMScheduler", {"shift": 3.0}),
    ("FlowMapEulerDiscreteScheduler", {"shift": 3.0}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 5.0}),
    ("MiniMaxH3Scheduler", {}),
    ("LTXEulerAncestralRFScheduler", {}),
    ("SCMScheduler", {}),
    ("DDPMWuerstchenScheduler", {}),
]


def walks_through(scheduler, n):
    "Number of steps that a scheduler can really walk with a network that answers with its input."
    x, steps = torch.randn(1, 3, 4, 4, generator=stream(0, "walk")), 0
    for t in scheduler.timesteps[:n]:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        x = scheduler.step(0.1 * x, t, x, return_dict=False)[0]
        steps += 1
    assert bool(torch.isfinite(x).all())
    return steps


@pytest.mark.parametrize("n", [2, 9])
@pytest.mark.parametrize("name, options", REAL)
def test_a_list_for_data_is_what_the_scheduler_uses(name, options, n):
    scheduler = getattr(diffusers, name)(**options)
    report = set_steps(scheduler, FIELD, n)
    forget_steps(scheduler)
    scheduler.set_timesteps(**scheduler_arguments(scheduler, report.levels).values)
    used, wanted = levels_used(scheduler), torch.tensor(report.levels, dtype=torch.float64)
    assert len(used) == n + 1 and used[-1] == 0 and bool((used.diff() < 0).all())
    off = (used[:-1].log() - wanted[:-1].log()).abs().max().item()
    assert off < (2.0 if name in ROUNDED else 1e-3)  # few indices are left at the end of a chain


@pytest.mark.parametrize(
    "name, options",
    [
        (n, o)
        for n, o in REAL
        if n not in ("SCMScheduler", "DDPMWuerstchenScheduler", "FlowMapEulerDiscreteScheduler")
    ],
)
def test_the_scheduler_walks_the_list(name, options):
    scheduler = getattr(diffusers, name)(**options)
    if options.get("invert_sigmas"):
        pytest.skip("its network is asked at 1 - share")
    set_steps(scheduler, FIELD, 6)
    assert walks_through(scheduler, len(scheduler.timesteps)) >= 6


def test_rounding_is_the_distance_to_the_grid():
    scheduler = diffusers.DPMSolverMultistepScheduler(**CHAIN)
    table = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    on_grid = [*table[[999, 700, 300, 50]].tolist(), 0.0]
    made = scheduler_arguments(scheduler, on_grid)
    assert made.values["timesteps"] == [999, 700, 300, 50] and made.rounding < 1e-5
    assert len(made.notes) == 1
    between = [*table[[999, 700, 300]].tolist(), (float(table[50] * table[51])) ** 0.5, 0.0]
    off = scheduler_arguments(scheduler, between)
    half = float((table[51] / table[50]).log()) / 2
    assert off.rounding == pytest.approx(half, rel=1e-3) and "rounded by up to" in off.notes[1]


def test_arguments_leave_the_scheduler_alone():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    before = copy.deepcopy(vars(scheduler))
    scheduler_arguments(scheduler, [1.0, 0.5, 0.0])
    assert {k: str(v) for k, v in before.items()} == {k: str(v) for k, v in vars(scheduler).items()}


def test_every_scheduler_without_a_list_names_one_or_says_why():
    for entry in SCHEDULERS.values():
        if entry.takes == "nothing":
            assert entry.instead in SCHEDULERS or entry.does


# ------------------------------------------------------------------------------------------------------------
# - files


def write_pictures(folder, x):
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(x):
        values = ((picture + 1) * 127.5).round().clamp(0, 255).byte()
        Image.fromarray(values.permute(1, 2, 0).squeeze(-1).numpy()).save(folder / f"{i:03}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    write_pictures(folder, make("texture", 40, 16, stream(0, "photos"), channels=3) / 2)
    return folder


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (9, 4, 5, 8), (33, 16, 3, 7)])
def test_latents_of_any_kind(tmp_path, dtype, shape):
    x = (torch.randn(shape, generator=stream(1, str(shape))) * 2 + 1).to(dtype)
    save_file({"x": x}, tmp_path / "x.safetensors")
    found = folder_spectrum(tmp_path / "x.safetensors")
    n = shape[0]
    whole = GaussianField.fit(x.double(), found.field.basis)
    assert found.number == n
    assert torch.allclose(found.field.power, whole.power * n / (n - 1), rtol=1e-4, atol=1e-5)
    if dtype != torch.bfloat16:
        np.save(tmp_path / "x.npy", x.numpy())
        assert torch.equal(folder_spectrum(tmp_path / "x.npy").field.power, found.field.power)


def test_groups_do_not_change_the_result():
    x = (
        torch.randn(30, 3, 6, 9, generator=stream(2, "x")).double()
        + torch.randn(3, 6, 9, generator=stream(3, "mean")).double()
    )
    results = []
    for size in (30, 7, 1):
        sums = Sums((3, 6, 9))
        for part in x.split(size):
            sums.add(part.clone())
        results.append(sums.result())
    for other in results[1:]:
        assert torch.allclose(other.field.power, results[0].field.power, rtol=1e-9)
        assert torch.allclose(other.power, results[0].power, rtol=1e-9)


def test_a_table_is_the_field(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text("power,multiplicity\n" + "\n".join(f"{p},2" for p in FIELD.power.flatten().tolist()))
    spectrum = read_spectrum(file)
    assert spectrum.power.tolist() == FIELD.power.flatten().tolist()
    where = schedule_range("edm")
    one = step_report(spectrum, where, 6).levels
    file.write_text("eigenvalue,count\n" + "\n".join(f"{p},4" for p in FIELD.power.flatten().tolist()))
    assert np.allclose(one, step_report(read_spectrum(file), where, 6).levels, rtol=1e-3)


# ------------------------------------------------------------------------------------------------------------
# - the command


def program(capsys, *words):
    code = cli.main(["steps", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_printed_line_sets_the_list(capsys, photos):
    code, out, _ = program(capsys, photos, "--calls", 6, "--as", "diffusers:EulerDiscreteScheduler")
    line = next(row for row in out.splitlines() if row.startswith("scheduler.set_timesteps"))
    scheduler = diffusers.EulerDiscreteScheduler(**CHAIN)
    exec(line, {"scheduler": scheduler})
    report = set_steps(diffusers.EulerDiscreteScheduler(**CHAIN), photos, 6)
    assert code == 0 and np.allclose(scheduler.sigmas, report.levels, rtol=1e-5)
    assert all(word in out for word in ("karras", "Rule:", "Known to fail:", "one standard error"))


def test_the_command_runs_as_a_program(photos):
    words = [sys.executable, "-m", "spectral_diffusion.lab.cli", "steps", str(photos), "--as", "comfyui"]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    levels = [float(x) for x in run.stdout.strip().splitlines()[-1].split(",")]
    assert len(levels) == 11 and levels[-1] == 0 and levels == sorted(levels, reverse=True)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--calls", "1"], "at least two steps"),
        (["--schedule", "flow", "--sigma-max", "80"], "sigma / (1 + sigma)"),
        (["--schedule", "scaled_linear", "--sigma-max", "80"], "has levels from"),
        (["--as", "diffusers:FlowMatchEulerDiscreteScheduler", "--schedule", "edm"], "is for flow"),
        (["--as", "diffusers:DDIMScheduler"], "EulerDiscreteScheduler.from_config"),
        (["--as", "diffusers:Euler"], "unknown scheduler"),
        (["--shift", "3"], "--schedule flow"),
        (["--plot", "x.txt"], ".png, .svg or .pdf"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(capsys, photos, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = program(capsys, photos, *words)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1 and out == ""
    assert not list(tmp_path.iterdir())


def bad_folders(root):
    x = make("texture", 4, 8, stream(3, "bad"), channels=3) / 2
    write_pictures(root / "one", x[:1])
    write_pictures(root / "constant", x[:1].repeat(3, 1, 1, 1))
    write_pictures(root / "sizes", x)
    Image.fromarray(np.zeros((8, 9, 3), dtype=np.uint8)).save(root / "sizes" / "wide.png")
    np.save(root / "nan.npy", np.full((3, 1, 4, 4), np.nan, dtype=np.float32))
    np.save(root / "shape.npy", np.zeros((3, 4, 4), dtype=np.float32))
    (root / "empty").mkdir()
    return {
        "one": "at least two pictures",
        "constant": "they have no spectrum",
        "sizes": "wide.png is (3, 8, 9)",
        "nan.npy": "not finite",
        "shape.npy": "shape (n, c, h, w)",
        "empty": "no pictures and no latents",
        "nowhere": "does not exist",
    }


def test_bad_data_is_one_line_and_exit_code_2(capsys, tmp_path):
    for name, says in bad_folders(tmp_path).items():
        code, out, err = program(capsys, tmp_path / name)
        assert code == 2 and says in err and len(err.strip().splitlines()) == 1 and out == "", name


def test_a_bad_wish_leaves_the_scheduler_as_it_was():
    scheduler = diffusers.EulerDiscreteScheduler(**CHAIN)
    scheduler.set_timesteps(4)
    before = scheduler.sigmas.clone()
    for wish in ({"n": 1}, {"n": 6, "sigma_max": 99.0}, {"n": 6, "solver": "huen"}):
        with pytest.raises(InputError):
            set_steps(scheduler, FIELD, **wish)
    assert torch.equal(scheduler.sigmas, before) and "set_timesteps" not in vars(scheduler)
