"""Interchange: schedulers against diffusers' own, folders there and back, a hub that is a folder, event files
read back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.core.runtime import split, stream
from spectral_diffusion.data.synthetic import make
from spectral_diffusion.lab import interop
from spectral_diffusion.learn.loop import train
from spectral_diffusion.models.zoo import MODELS, build_model
from spectral_diffusion.noise.denoiser import wrap
from spectral_diffusion.noise.process import Process
from spectral_diffusion.sampling.engine import sample

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is needed for this comparison: pip install -e '.[diffusers]' in a checkout"
)
from spectral_diffusion.lab import interop_diffusers as classes  # noqa: E402

BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SMALL = {
    "sample_size": 16,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def start(*shape, seed=0):
    return torch.randn(shape, generator=stream(seed, "test/interop"))


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


# ------------------------------------------------------------------------------------------------------------
# - imports


def test_nothing_optional_is_imported_before_it_is_asked_for():
    run = python(
        "import sys, spectral_diffusion.lab.interop, spectral_diffusion.lab.cli,"
        " spectral_diffusion.run.experiment\nprint([m for m in ('diffusers', 'huggingface_hub',"
        " 'tensorboard') if m in sys.modules])"
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_without_diffusers_the_extra_is_named():
    run = python(
        "import sys\nsys.modules['diffusers'] = None\nfrom spectral_diffusion.core.registry import"
        " InputError\nfrom spectral_diffusion.lab.interop import from_diffusers\ntry: from_diffusers(None,"
        " None)\nexcept InputError as error: print(error)"
    )
    assert ".[diffusers]" in run.stdout, run.stderr


def test_extras_are_declared():
    import configparser

    config = configparser.ConfigParser(delimiters=["="])
    config.read(Path(__file__).parents[1] / "settings.ini", encoding="utf-8")
    assert config["DEFAULT"]["extra_diffusers"] and config["DEFAULT"]["extra_tensorboard"]


# -----------------------------------------------------------------------------------------------------------
# scheduler


def net(x, tau):
    return torch.tanh(0.7 * x + 0.1 * torch.roll(x, 1, -1)) * (0.3 + tau / 1000)


def walk(scheduler, x, **options):
    for tau in scheduler.timesteps:
        x = scheduler.step(net(x, tau), tau, x, **options).prev_sample
    return x


@pytest.mark.parametrize("name", ["ddim", "dpm_solver++"])
@pytest.mark.parametrize("steps", [5, 20])
def test_against_their_schedulers(name, steps):
    if name == "ddim":
        theirs = diffusers.DDIMScheduler(
            **BETAS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading"
        )
    else:
        theirs = diffusers.DPMSolverMultistepScheduler(
            **BETAS,
            algorithm_type="dpmsolver++",
            solver_order=2,
            final_sigmas_type="zero",
            lower_order_final=False,
            timestep_spacing="leading",
        )
    theirs.set_timesteps(steps)
    ours = classes.SpectralScheduler(sampler=name, alphas_cumprod=theirs.alphas_cumprod.tolist())
    ours.set_timesteps(timesteps=theirs.timesteps.tolist())
    x = start(2, 3, 8, 8).double()
    want, got = walk(theirs, x), walk(ours, x)
    assert (want - got).abs().max() < 5e-5 * want.abs().max()  # their tables are single precision


def test_their_pipeline_drives_our_scheduler():
    torch.manual_seed(0)
    pipeline = diffusers.DDPMPipeline(
        diffusers.UNet2DModel(**SMALL).eval(),
        classes.SpectralScheduler(schedule="linear", sampler="dpm_solver++", clip=1.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    images = pipeline(batch_size=2, generator=generator, num_inference_steps=5, output_type="pt").images
    denoiser = interop.from_diffusers(pipeline.unet, pipeline.scheduler)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    ours = sample(
        lambda x, t: denoiser(x, t).clamp(-1, 1), denoiser.process, x.shape, "dpm_solver++", 5, start=x
    )  # whole indices: in between, theirs asks at fractions
    assert (images - (ours / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-4


def test_times_and_timesteps_are_refused_when_they_cannot_be_meant():
    scheduler = classes.SpectralScheduler()
    for bad in (
        {},
        {"num_inference_steps": 3, "timesteps": [9, 8]},
        {"timesteps": [3, 7]},
        {"times": [0.2, 0.6]},
        {"num_inference_steps": 0},
    ):
        with pytest.raises(InputError):
            scheduler.set_timesteps(**bad)
    assert len(scheduler) == 1000 and scheduler.scale_model_input(3) == 3


def test_a_table_is_one_schedule_whoever_brings_it():
    table = [0.9, 0.5, 0.1]
    assert (
        classes.table_schedule(table)
        == classes.table_schedule(list(table))
        != classes.table_schedule([0.9, 0.5, 0.2])
    )
    level = Process(classes.table_schedule(table)).gains(
        torch.tensor([0.0, 1 / 3, 2 / 3, 1.0], dtype=torch.float64)
    )
    assert torch.allclose(
        level.a.flatten().square(), torch.tensor([1.0, *table], dtype=torch.float64), atol=1e-12
    )
    zero = Process(classes.table_schedule([0.9, 0.5, 0.0])).gains(1.0)  # a chain that ends in noise alone
    assert zero.a.item() == 0 and zero.s.item() == 1


# ------------------------------------------------------------------------------------------------------------
# --- model


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_of_the_zoo_goes_through_a_folder(name, tmp_path):
    network = {"name": name, "channels": 3, "zero_output": False}
    denoiser = wrap(
        build_model(network),
        Process("cosine"),
        "eps",
        "spectral",
        make("texture", 12, 32, stream(0, "test"), channels=3)
        + 0.1 * torch.randn(12, 3, 32, 32, generator=stream(1, "test")),
    ).eval()
    model = classes.model_from(denoiser, network, sample_size=(32, 32))
    model.save_pretrained(tmp_path)
    loaded = classes.SpectralModel.from_pretrained(tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    x, t = start(2, 3, 32, 32), torch.tensor([0.8, 0.1])
    with torch.no_grad():
        assert (loaded.denoiser(x, t) - denoiser(x, t)).abs().max() < 1e-5


def test_low_memory_or_not_the_model_is_one(tmp_path):
    network = {"name": "unet_tiny", "channels": 1, "base": 4, "zero_output": False}
    denoiser = wrap(
        build_model(network), Process("linear"), "eps", "spectral", make("texture", 30, 16, stream(0, "test"))
    )
    classes.model_from(denoiser, network, sample_size=(16, 16)).save_pretrained(tmp_path)
    x, t = start(2, 1, 16, 16), torch.tensor([0.8, 0.1])
    for low in (True, False):
        assert torch.equal(
            classes.SpectralModel.from_pretrained(tmp_path, low_cpu_mem_usage=low).denoiser(x, t),
            denoiser(x, t),
        )
    config = json.loads((tmp_path / "config.json").read_text())
    assert (
        config["network"] == network
        and config["schedule"] == "linear"
        and config["_class_name"] == "SpectralModel"
    )


def test_folder_names_the_module_and_opens_in_another_process(tmp_path):
    network = {"name": "conv", "channels": 1, "width": 4}
    pipeline = interop.to_diffusers(wrap(build_model(network), Process("cosine")), network, size=(8, 8))
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert (
        index["unet"] == ["spectral_diffusion.lab.spectral_model", "SpectralModel"]
        and index["_class_name"] == "SpectralPipeline"
    )
    run = python(
        "import torch, spectral_diffusion.lab.interop_diffusers\nfrom diffusers import DDPMPipeline\np ="
        f" DDPMPipeline.from_pretrained({str(tmp_path)!r},"
        " use_safetensors=True)\np.set_progress_bar_config(disable=True)\nprint(tuple(p(batch_size=2,"
        " num_inference_steps=2, generator=torch.Generator().manual_seed(0),"
        " output_type='pt').images.shape))"
    )
    assert run.stdout.strip().endswith("(2, 1, 8, 8)"), run.stderr


def test_a_folder_that_names_the_old_module_of_its_classes_still_opens(tmp_path):
    network = {"name": "conv", "channels": 1, "width": 4}
    pipeline = interop.to_diffusers(wrap(build_model(network), Process("cosine")), network, size=(8, 8))
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for part in ("unet", "scheduler"):
        index[part][0] = "spectral_diffusion.lab.interop_diffusers"
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    loaded = classes.SpectralPipeline.from_pretrained(tmp_path)
    x = start(2, 1, 8, 8)
    assert torch.equal(loaded.unet(x, 500).sample, pipeline.unet(x, 500).sample)
    assert type(loaded.scheduler) is classes.SpectralScheduler


# ------------------------------------------------------------------------------------------------------------
# ----- hub


class FolderHub:
    "The part of the hub's client that is used, on a folder."

    root: Path

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, *, private, exist_ok):
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def list_repo_files(self, repo_id, *, revision=None):
        if not (self.root / repo_id).is_dir():
            raise FileNotFoundError(repo_id)
        return [
            p.relative_to(self.root / repo_id).as_posix()
            for p in (self.root / repo_id).rglob("*")
            if p.is_file()
        ]

    def copy(self, source, target, patterns):
        from huggingface_hub.utils import filter_repo_objects

        for name in filter_repo_objects(
            [p.relative_to(source).as_posix() for p in Path(source).rglob("*") if p.is_file()],
            allow_patterns=patterns,
        ):
            (Path(target) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(target) / name).write_bytes((Path(source) / name).read_bytes())

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        self.copy(folder_path, self.root / repo_id, allow_patterns)
        return "done"

    def snapshot_download(self, repo_id, *, revision, local_dir, allow_patterns):
        self.copy(self.root / repo_id, local_dir, allow_patterns)
        return str(local_dir)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(FolderHub, "root", tmp_path / "hub", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi", FolderHub)
    return tmp_path / "hub"


@pytest.fixture
def saved(tmp_path):
    network = {"name": "conv", "channels": 1, "width": 4}
    interop.to_diffusers(wrap(build_model(network), Process("cosine")), network, size=(8, 8)).save_pretrained(
        tmp_path / "saved"
    )
    return tmp_path / "saved"


def test_the_stand_in_has_the_methods_and_arguments_of_the_client():
    import inspect

    import huggingface_hub

    for name in ("create_repo", "list_repo_files", "upload_folder", "snapshot_download"):
        real = inspect.signature(getattr(huggingface_hub.HfApi, name)).parameters
        assert set(inspect.signature(getattr(FolderHub, name)).parameters) <= set(real), name
    assert "token" in inspect.signature(huggingface_hub.HfApi.__init__).parameters


def test_there_and_back_without_what_is_not_allowed(hub, saved, tmp_path):
    (saved / "README.md").write_text("a model")
    assert interop.push(saved, "me/one") == "done"
    for name in ("pipeline.py", "unet/diffusion_pytorch_model.bin", "notes.txt"):
        (hub / "me/one" / name).write_bytes(b"x")
    fetched = interop.pull("me/one", tmp_path / "fetched")
    got = {p.relative_to(fetched).as_posix(): p.read_bytes() for p in fetched.rglob("*") if p.is_file()}
    assert got == {p.relative_to(saved).as_posix(): p.read_bytes() for p in saved.rglob("*") if p.is_file()}
    classes.SpectralPipeline.from_pretrained(fetched)


@pytest.mark.parametrize(
    "name",
    ["weights.bin", "unet/weights.pt", "a.ckpt", "pipeline.py", "x.safetensors.pkl", "readme.md", ".netrc"],
)
def test_what_is_not_sent_is_named(hub, saved, name):
    (saved / name).write_bytes(b"x")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        interop.push(saved, "me/one")
    assert not (hub / "me").exists()  # refused before anything was made


@pytest.mark.parametrize("files", [["model.bin"], ["a/b.pt", "config.json"], ["config.json"]])
def test_a_repository_without_safetensors_is_refused(hub, tmp_path, files):
    for name in files:
        (hub / "me/bad" / name).parent.mkdir(parents=True, exist_ok=True)
        (hub / "me/bad" / name).write_bytes(b"x")
    with pytest.raises(InputError, match="no safetensors"):
        interop.pull("me/bad", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "../x", "me/one.git"])
def test_names_of_repositories(hub, saved, tmp_path, name):
    for call in (lambda: interop.push(saved, name), lambda: interop.pull(name, tmp_path / "out")):
        with pytest.raises(InputError, match="no name of a repository"):
            call()


# ---------------------------------------------------------------------------------------------------------
# tensorboard


def test_event_files_are_read_back(tmp_path):
    pytest.importorskip(
        "tensorboard",
        reason="the package tensorboard is needed: pip install -e '.[tensorboard]' in a checkout",
    )
    import pandas as pd
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    denoiser = wrap(build_model({"name": "conv", "channels": 1, "width": 4}), Process("cosine"))
    images = make("texture", 8, 8, stream(0, "test"))
    plain = wrap(build_model({"name": "conv", "channels": 1, "width": 4}), Process("cosine"))
    want = [s.loss for s in train(plain, lambda step: images, steps=6, batch=8)]
    states = list(
        interop.log_tensorboard(
            train(denoiser, lambda step: images, steps=6, batch=8), tmp_path / "a", every=2
        )
    )
    assert [s.loss for s in states] == want  # who watches changes nothing
    interop.log_history(
        pd.DataFrame({"step": [0, 5], "loss": [1.0, 0.5], "train_loss": [None, 0.7], "arm": ["x", "x"]}),
        tmp_path / "b",
    )
    read = {}
    for folder in ("a", "b"):
        events = EventAccumulator(str(tmp_path / folder)).Reload()
        read |= {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert read["train/loss"] == [(i, pytest.approx(want[i - 1])) for i in (1, 2, 4, 6)]
    assert set(read) == {
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "train/images_per_second",
        "history/loss",
        "history/train_loss",
    }
    assert read["history/loss"] == [(0, 1.0), (5, 0.5)] and read["history/train_loss"] == [
        (5, pytest.approx(0.7))
    ]


def test_samples_of_a_stochastic_sampler_do_not_depend_on_the_batch(saved):
    pipeline = classes.SpectralPipeline.from_pretrained(saved)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = classes.SpectralScheduler.from_config(pipeline.scheduler.config, sampler="ancestral")
    many, few = (pipeline(n, split(stream(5, "x"), 4)[:n], 5, output_type="pt").images for n in (4, 2))
    assert (many[:2] - few).abs().max() < 1e-6
