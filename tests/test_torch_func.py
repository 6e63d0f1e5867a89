"""Operations with a gradient of their own: as torch's own operations under torch.func, differentiated twice,
on both sides of each dispatch."""

import gc

import pytest
import torch

from spectral_diffusion.models import complex as layers  # noqa: F401, so that every Function is defined
from spectral_diffusion.models.activations import complex_silu, open_silu
from spectral_diffusion.models.zoo import MODELS
from spectral_diffusion.signals import cosine
from spectral_diffusion.signals.bases import BASES, color
from spectral_diffusion.signals.cosine import dct2, dct_matrix, idct2
from spectral_diffusion.signals.wavelets import WAVELETS, dwt2, idwt2

EDGE = cosine.LARGE


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_matrix(x, inverse=False):
    h, w = (dct_matrix(n) for n in x.shape[-2:])
    return h.T @ x @ w if inverse else h @ x @ w.T


def test_every_function_of_its_own_is_one_for_torch_func():
    "No Function of the library without a context of its own, a forward derivative and a rule for batches."
    assert len(MODELS) and gc.collect() >= 0
    ours = [
        f for f in torch.autograd.Function.__subclasses__() if f.__module__.startswith("spectral_diffusion")
    ]
    assert {f.__name__ for f in ours} >= {"_Fast", "_ComplexSiLU"}
    for function in ours:
        for rule in ("setup_context", "jvp", "vmap", "backward"):
            assert rule in vars(function), (function.__name__, rule)


@pytest.mark.parametrize("size", [(EDGE - 1, 4), (EDGE, 3), (5, EDGE - 1), (4, EDGE + 1)])
@pytest.mark.parametrize("transform", [dct2, idct2])
def test_cosine_on_both_sides(transform, size):
    x, d, other = draw(2, *size), draw(2, *size, seed=1), transform is idct2

    def energy(f):
        return lambda z: f(z).pow(3).sum()

    def slow(z):
        return by_matrix(z, other)

    assert (torch.func.jvp(transform, (x,), (d,))[1] - slow(d)).abs().max() < 1e-11
    for axis in (0, 1, 2, -1):
        stacked = torch.stack([x, d, x - d], axis)
        assert (
            torch.func.vmap(transform, axis, axis)(stacked)
            - torch.stack([slow(x), slow(d), slow(x - d)], axis)
        ).abs().max() < 1e-11
    assert (torch.func.grad(energy(transform))(x) - torch.func.grad(energy(slow))(x)).abs().max() < 1e-10
    assert (
        torch.func.vmap(torch.func.grad(energy(transform)))(x) - torch.func.grad(energy(slow))(x)
    ).abs().max() < 1e-10
    twice = [torch.func.jvp(torch.func.grad(energy(f)), (x,), (d,))[1] for f in (transform, slow)]
    assert (twice[0] - twice[1]).abs().max() < 1e-9
    thrice = [
        torch.func.grad(lambda z, f=f: (torch.func.grad(energy(f))(z) * d).sum())(x)
        for f in (transform, slow)
    ]
    assert (thrice[0] - thrice[1]).abs().max() < 1e-9


def test_cosine_gradchecks_on_both_sides(monkeypatch):
    for large in (1, 10_000):
        monkeypatch.setattr(cosine, "LARGE", large)
        x = draw(2, 3, 4).requires_grad_()
        for f in (dct2, idct2):
            assert torch.autograd.gradcheck(lambda z, f=f: f(z).sin(), x, check_forward_ad=True)
            assert torch.autograd.gradgradcheck(lambda z, f=f: f(z).sin(), x)


@pytest.mark.parametrize("n", [EDGE - 1, EDGE])
def test_views_and_forward_mode(n):
    z = torch.complex(draw(n, n), draw(n, n, seed=1))
    flagged = z.conj().imag
    assert flagged.is_neg() and (dct2(flagged) + by_matrix(z.imag)).abs().max() < 1e-10
    assert (dct2(z.real.mT) - by_matrix(z.real.mT)).abs().max() < 1e-10  # not contiguous
    assert dct2(z.real.expand(2, 3, n, n)).shape == (2, 3, n, n)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z.real, z.imag)
        change = torch.autograd.forward_ad.unpack_dual(dct2(dual)).tangent
    assert (change - by_matrix(z.imag)).abs().max() < 1e-10
    assert dct2(torch.zeros(n, n, device="meta")).shape == (n, n)


@pytest.mark.parametrize("shape", [(1, 2), (3, 6), (2, 4, 3, 5), (1, 2, 1, 1)])
def test_complex_silu(shape):
    x, d = draw(*shape), draw(*shape, seed=1)
    assert torch.autograd.gradcheck(complex_silu, x.requires_grad_(), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(complex_silu, x)
    x = x.detach()
    for axis in (0, 1, -1):
        stacked = torch.stack([x, d, -x], axis)
        assert (
            torch.func.vmap(complex_silu, axis, axis)(stacked)
            - torch.stack([open_silu(x), open_silu(d), open_silu(-x)], axis)
        ).abs().max() < 1e-14
    nested = torch.func.vmap(torch.func.vmap(complex_silu))(torch.stack([x, d])[None])
    assert (nested[0] - torch.stack([open_silu(x), open_silu(d)])).abs().max() < 1e-14
    hessians = [torch.func.hessian(lambda z, f=f: f(z).pow(2).sum())(x) for f in (complex_silu, open_silu)]
    assert (hessians[0] - hessians[1]).abs().max() < 1e-12


def test_complex_silu_of_half_precision_and_layouts():
    for dtype, eps in ((torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float32, 1e-6)):
        x = draw(2, 4, 3, 5).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
        y = complex_silu(x)
        assert y.dtype == dtype and (y.double() - open_silu(x.double())).abs().max() < 4 * eps
        (plain,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        (again,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert plain.dtype == again.dtype == dtype and (plain.double() - again.double()).abs().max() < 8 * eps


SPACES = {**BASES, "dct+color": color(BASES["dct"], torch.linalg.qr(draw(2, 2))[0])}


@pytest.mark.parametrize("basis", sorted(SPACES))
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_bases(basis, size):
    "There and back through a basis is the identity, and so are its derivatives under every transform."
    space, x, d = SPACES[basis], draw(3, 2, *size), draw(3, 2, *size, seed=1)

    def there_and_back(z):
        return space.inverse(space.forward(z), size)

    def energy(z):
        return (space.weights(*size) * space.forward(z).abs().square()).sum() / 2

    assert (torch.func.jvp(there_and_back, (x,), (d,))[1] - d).abs().max() < 1e-12
    assert (torch.func.vmap(there_and_back)(x) - x).abs().max() < 1e-12
    assert (torch.func.vmap(torch.func.grad(energy))(x) - x).abs().max() < 1e-12
    assert (torch.func.jvp(torch.func.grad(energy), (x,), (d,))[1] - d).abs().max() < 1e-12


@pytest.mark.parametrize("wavelet", sorted(WAVELETS))
def test_wavelets(wavelet):
    x, d = draw(3, 7, 8), draw(3, 7, 8, seed=1)

    def there_and_back(z):
        return idwt2(dwt2(z, wavelet, 2), wavelet)

    assert (torch.func.jvp(there_and_back, (x,), (d,))[1] - d).abs().max() < 1e-12
    assert (torch.func.vmap(there_and_back)(x) - x).abs().max() < 1e-12
    assert torch.autograd.gradgradcheck(lambda z: dwt2(z, wavelet, 2).coarse.sin(), x[:1].requires_grad_())
