"The contract: public names resolve, importing is light, and array shapes are what the annotations say."

import importlib
import subprocess
import sys

import pytest

CONTRACT = {
    "signals.fourier": "rfft2 irfft2 radius bin_weights",
    "signals.cosine": "dct2 idct2",
    "signals.wavelets": "dwt2 idwt2",
    "signals.bases": "BASES color",
    "signals.spectra": "radial_power fit_power_law",
    "data.synthetic": "make",
    "data.real": "cifar10",
    "data.stream": "batch",
    "noise.schedules": "SCHEDULES",
    "noise.process": "Process",
    "noise.denoiser": "Denoiser wrap target_of",
    "noise.theory": "GaussianField",
    "models.zoo": "MODELS build_model",
    "learn.loop": "train",
    "learn.regularizers": "SpectralTruncation InterScaleSimilarity SaliencyConsistency FocalFrequency",
    "sampling.engine": "SAMPLERS register_sampler sample",
    "study.ledger": "load_ledger",
    "lab.cli": "main",
}


@pytest.mark.parametrize("module", CONTRACT)
def test_names_resolve(module):
    loaded = importlib.import_module(f"spectral_diffusion.{module}")
    missing = [n for n in CONTRACT[module].split() if not hasattr(loaded, n)]
    assert not missing


def test_registries_hold_the_contract():
    from spectral_diffusion.data.synthetic import FAMILIES
    from spectral_diffusion.models.zoo import MODELS
    from spectral_diffusion.noise.schedules import SCHEDULES
    from spectral_diffusion.sampling.samplers import SAMPLERS
    from spectral_diffusion.signals.bases import BASES

    assert {"pixel", "fourier", "dct", "haar"} <= set(BASES)
    assert {"piecewise", "texture", "random_field", "noise", "power_law"} <= set(FAMILIES)
    assert {"linear", "cosine", "scaled_linear", "flow", "edm"} <= set(SCHEDULES)
    assert {"ddpm", "ddim", "ancestral"} <= set(SAMPLERS)
    assert {"unet_tiny", "conv"} <= set(MODELS)


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    heavy = python(
        "import sys, spectral_diffusion; print([m for m in"
        " ('torch','numpy','pandas','scipy','matplotlib','torchvision','papermill') if m in sys.modules])"
    )
    assert heavy == "[]"


def test_the_core_does_without_tables_pictures_and_papermill():
    "In one process, which after each import says what has come with it."
    code = """
import importlib, sys
for name in "signals.bases noise.denoiser models.unet sampling.engine learn.loop data.real".split():
    importlib.import_module(f"spectral_diffusion.{name}")
    heavy = "pandas matplotlib torchvision papermill IPython nbdev fastcore".split()
    assert not (found := [m for m in heavy if m in sys.modules]), f"{name} imports {found}"
"""
    assert python(code) == ""


def test_help_answers_without_torch():
    heavy = python(
        "import sys\nfrom spectral_diffusion.lab.cli import parser\nparser().format_help()\nprint('torch' in"
        " sys.modules)"
    )
    assert heavy == "False"


def test_shapes_are_what_the_annotations_say():
    "jaxtyping checks every public tensor of these calls, in a process of its own."
    code = """
from jaxtyping import install_import_hook
with install_import_hook("spectral_diffusion", "beartype.beartype"):
    import torch
    from spectral_diffusion.signals import bases, cosine, fourier, spectra
    from spectral_diffusion.noise import process, theory
g = torch.Generator().manual_seed(0)
for h, w in ((8, 8), (7, 9), (6, 5)):
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, h, w, dtype=dtype, generator=g)
        fourier.irfft2(fourier.rfft2(x), (h, w)), fourier.radius(h, w), fourier.bin_weights(h, w)
        cosine.idct2(cosine.dct2(x)), cosine.frequency(h, w)
        spectra.radial_power(x), spectra.band_masks(h, w), spectra.swap_phase(x, x)
        p = process.Process("cosine")
        p.diffuse(x, torch.rand(2, generator=g), torch.randn(x.shape, dtype=dtype, generator=g))
        theory.GaussianField.fit(x, "dct", pca=True).denoiser(p)(x, torch.rand(2, generator=g))
try: p.diffuse(x, torch.rand(3, generator=g), x)
except Exception as error: print("checked", type(error).__name__)
"""
    assert python(code) == "checked TypeCheckError"  # two images and three times
