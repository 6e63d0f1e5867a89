"signals.bases: orthonormal against an explicit matrix, wavelets against PyWavelets, colour against numpy."

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.signals.bases import BASES, color, haar_levels, pca_color


def images(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(c, seed=0):
    return torch.linalg.qr(images(c, c, seed=seed)).Q


def test_the_contract_names():
    assert {"pixel", "fourier", "dct", "haar"} <= set(BASES)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("h,w", [(4, 4), (5, 5), (4, 7), (7, 4), (1, 3), (8, 6)])
def test_the_matrix_is_unitary(name, h, w):
    """Transform every unit image: with the weights the columns are orthonormal, which energy on a few images
    cannot show."""
    basis = BASES[name]
    U = basis.forward(torch.eye(h * w, dtype=torch.float64).reshape(h * w, h, w)).flatten(1)
    m = basis.weights(h, w).flatten()
    gram = (
        (U.conj() * m) @ U.T
    ).real  # a bin of weight two and its conjugate mirror add up to twice the real part
    assert (gram - torch.eye(h * w)).abs().max() < 1e-13
    assert (basis.inverse(basis.forward(images(3, h, w)), (h, w)) - images(3, h, w)).abs().max() < 1e-13
    assert basis.frequency(h, w).dtype == basis.weights(h, w).dtype == torch.float64
    assert (
        basis.frequency(h, w).shape
        == basis.weights(h, w).shape
        == torch.Size(basis.shape(h, w))
        == basis.forward(images(h, w)).shape
    )


@given(st.sampled_from(sorted(BASES)), st.integers(1, 18), st.integers(1, 18))
def test_any_size_in_single(name, h, w):
    basis, x = BASES[name], images(2, 3, h, w, dtype=torch.float32)
    z = basis.forward(x)
    assert (basis.inverse(z, (h, w)) - x).abs().max() < 1e-5
    assert abs((basis.weights(h, w) * z.abs().double().square()).sum() / x.double().square().sum() - 1) < 1e-5
    if name != "fourier" or h == w:
        assert torch.equal(basis.inverse(z), basis.inverse(z, (h, w)))


def test_haar_plane_is_pywavelets_array():
    x = images(16, 24)
    coefs = pywt.wavedec2(x.numpy(), "haar", mode="periodization", level=haar_levels(16, 24))
    plane = coefs[0]
    for horizontal, vertical, diagonal in coefs[1:]:
        plane = np.block([[plane, vertical], [horizontal, diagonal]])
    assert np.abs(BASES["haar"].forward(x).numpy() - plane).max() < 1e-12


@pytest.mark.parametrize("name", BASES)
def test_gradients(name):
    basis, x = color(BASES[name], rotation(3)), images(3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: basis.inverse(basis.forward(z), (4, 5)).pow(2), x)


@pytest.mark.parametrize("name", BASES)
def test_colour_is_a_rotation_of_channels_in_any_order(name):
    "Channels and space do not mix, so rotating before or after the spatial transform is the same."
    matrix, x = rotation(4, 1), images(2, 4, 6, 7)
    basis, plain = color(BASES[name], matrix), BASES[name].forward(x)
    want = np.einsum("dc,nchw->ndhw", matrix.numpy(), plain.numpy())
    assert np.abs(basis.forward(x).numpy() - want).max() < 1e-13
    assert (basis.inverse(basis.forward(x), (6, 7)) - x).abs().max() < 1e-13


def test_pca_is_numpys():
    x = images(50, 3, 5, 6)
    x = torch.einsum("dc,nchw->ndhw", images(3, 3, seed=2), x) + 3
    matrix, pixels = pca_color(x.float()), x.numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    U, _, _ = np.linalg.svd(pixels - pixels.mean(1, keepdims=True), full_matrices=False)
    assert (
        np.abs(np.abs(matrix.numpy() @ U) - np.eye(3)).max() < 1e-5
    )  # single-precision images; signs are free
    assert (matrix @ matrix.T - torch.eye(3)).abs().max() < 1e-13
    variance = torch.cov(torch.from_numpy(matrix.numpy() @ pixels)).diagonal()
    assert (variance[:-1] > variance[1:]).all()


def test_rotation_survives_autocast():
    basis, x = color(BASES["dct"], rotation(3)), images(2, 3, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = basis.inverse(basis.forward(x))
    assert (inside - x).abs().max() < 1e-5


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda: BASES["cosine"], "unknown basis"),
        (lambda: color(BASES["dct"], torch.ones(3, 3)), "orthogonal"),
        (lambda: color(BASES["dct"], torch.eye(3)[:2]), "orthogonal"),
        (lambda: color(BASES["dct"], torch.eye(3) * float("nan")), "orthogonal"),
        (lambda: color(BASES["dct"], torch.eye(3)).forward(torch.zeros(2, 4, 4)), "3 channels"),
        (lambda: BASES["fourier"].inverse(BASES["fourier"].forward(torch.zeros(4, 6))), "size"),
        (lambda: BASES["haar"].inverse(torch.zeros(4, 6), (6, 4)), "check `size`"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()
