"""MASF in the basis in which it is diagonal: an average lags behind, so it is of first order with a larger
error than DDIM."""

import pytest

from spectral_diffusion.noise.process import Process
from spectral_diffusion.noise.theory import GaussianField
from spectral_diffusion.sampling.samplers import time_grid
from spectral_diffusion.sampling.transfer import transfer
from spectral_diffusion.signals.bases import BASES
from spectral_diffusion.signals.spectra import BANDS


def worst_band(name, schedule, size, steps):
    "Largest relative error of a band's standard deviation, exact denoiser, from the true marginal."
    k = BASES["haar"].frequency(*size)
    field = GaussianField((k + 0.03).pow(-2), size, basis="haar")
    v, inside = (
        transfer(name, Process(schedule), field, time_grid(steps)),
        [(k >= low) & (k < high) for low, high in BANDS.values()],
    )
    return max(abs((v[m].sum() / field.power[m].sum()).sqrt().item() - 1) for m in inside if m.any())


@pytest.mark.parametrize("size", [(16, 16), (15, 18)])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "flow"])
def test_masf_is_of_first_order_and_worse_than_ddim(schedule, size):
    """At 1000 steps linear and flow are within one per cent; on the cosine its default weights miss that by a
    hair, and halve the error with the step like the rest."""
    errors = [worst_band("masf", schedule, size, n) for n in (500, 1000, 2000)]
    assert all(1.8 < a / b < 2.2 for a, b in zip(errors[:-1], errors[1:], strict=True))
    assert worst_band("ddim", schedule, size, 1000) < errors[1]
    assert (errors[2] if schedule == "cosine" else errors[1]) < 0.01
