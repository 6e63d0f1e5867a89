"learn.regularizers against loops over samples, classes, pairs and full spectra."

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.learn import regularizers
from spectral_diffusion.learn.regularizers import (
    FocalFrequency,
    SaliencyConsistency,
    fourier_sensitivity,
    gradient_ratio,
    input_gradient_penalty,
    jacobian_penalty,
    saliency_variation,
    spectral_norm_penalty,
)
from spectral_diffusion.learn.saliency import amplitude_spectrum, class_variance, saliency


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mlp(shape, k=4, seed=0, dtype=torch.float64):
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 7), nn.Tanh(), nn.Linear(7, k)).to(dtype)
    for i, p in enumerate(model.parameters()):
        p.data.copy_(draw(*p.shape, seed=10 * seed + i) / math.sqrt(p.shape[-1]))
    return model


def spectra(model, x, y):
    "Unit spectra of the target gradients, sample by sample, by numpy."
    rows = []
    for v, c in zip(x, y):
        v = v[None].clone().requires_grad_()
        g = torch.autograd.grad(model(v)[0, c], v)[0][0].double().numpy()
        P = np.abs(np.fft.rfft2(g) if g.ndim == 3 else np.fft.rfft(g)).ravel()
        rows.append(P / np.linalg.norm(P))
    return np.array(rows)


@given(
    st.integers(2, 14),
    st.sampled_from([(12,), (9,), (2, 7), (3, 8), (1, 6, 5), (2, 5, 6)]),
    st.integers(0, 1000),
    st.sampled_from([torch.float64, torch.float32]),
)
def test_consistency_is_the_published_definition(n, shape, seed, dtype):
    model, x = mlp(shape, seed=seed, dtype=dtype), draw(n, *shape, seed=seed, dtype=dtype)
    y = torch.randint(4, (n,), generator=torch.Generator().manual_seed(seed))
    P, variances, cosines = spectra(model, x, y), [], []
    for c in range(4):
        mine = P[y.numpy() == c]
        if len(mine) < 2:
            continue
        variances.append(np.var(mine, axis=0, ddof=1).mean())
        cosines.append(np.mean([a @ b for i, a in enumerate(mine) for j, b in enumerate(mine) if i != j]))
    want = np.mean(variances) if variances else 0.0
    eps = 1e-7 if dtype == torch.float64 else 1e-5
    assert abs(SaliencyConsistency()(model, x, y).item() - want) < eps
    total = SaliencyConsistency(reduction="sum")(model, x, y).item()
    assert abs(total - (np.mean(1 - np.array(cosines)) if cosines else 0.0)) < 10 * eps
    v = x.clone().requires_grad_()
    assert SaliencyConsistency().from_logits(model(v), v, y) == SaliencyConsistency()(model, x, y)


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 6), st.booleans(), st.integers(0, 1000))
def test_class_variance_is_numpys(n, k, f, unbiased, seed):
    P, y = draw(n, f, seed=seed), torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))
    got = class_variance(P, y, k, unbiased=unbiased)
    for c in range(k):
        mine = P[y == c].numpy()
        want = np.var(mine, axis=0, ddof=int(unbiased)).sum() if len(mine) > 1 else 0.0
        assert abs(got.variance[c].item() - want) < 1e-12 and got.count[c] == len(mine)


@pytest.mark.parametrize("shape", [(6,), (5,), (2, 4), (1, 3, 4)])
def test_consistency_has_the_gradient_of_finite_steps(shape):
    model, x, y = mlp(shape), draw(7, *shape, seed=3), torch.tensor([0, 0, 1, 1, 1, 2, 3])
    names, weights = zip(*((n, p.detach().clone().requires_grad_()) for n, p in model.named_parameters()))

    def value(*weights):
        v = x.clone().requires_grad_()
        return SaliencyConsistency(reduction="sum").from_logits(
            torch.func.functional_call(model, dict(zip(names, weights)), (v,)), v, y
        )

    assert torch.autograd.gradcheck(value, weights)


def test_consistency_of_an_input_inside_a_graph():
    "An input that is no leaf keeps its graph: whatever made it is trained too."
    model, scale = mlp((8,)), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    x = draw(6, 8) * scale
    value = SaliencyConsistency()(model, x, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert torch.autograd.grad(value, scale)[0].abs() > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 12)),
            nn.Conv1d(1, 4, 3),
            nn.GELU(),
            nn.MaxPool1d(2),
            nn.Flatten(),
            nn.Linear(20, 3),
        ),
        lambda: nn.Sequential(
            nn.Unflatten(1, (3, 4)),
            nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        lambda: nn.Sequential(
            nn.Unflatten(1, (3, 4)),
            nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
            nn.Flatten(),
            nn.Linear(12, 3),
        ).eval(),
        lambda: nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).eval(),
    ],
)
def test_networks_that_work(make):
    model = make()
    for i, p in enumerate(model.parameters()):
        p.data.copy_(draw(*p.shape, seed=i) / 2)
    value = SaliencyConsistency()(model, draw(6, 12, dtype=torch.float32), torch.tensor([0, 0, 1, 1, 2, 2]))
    value.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert value > 0 and all(g.isfinite().all() for g in grads) and max(g.abs().max() for g in grads) > 0


def test_networks_that_do_not_work_say_why():
    x, y = draw(6, 12, dtype=torch.float32), torch.tensor([0, 0, 1, 1, 2, 2])
    norm = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.raises(InputError, match="mixes the samples"):
        SaliencyConsistency()(norm, x, y)
    with pytest.raises(InputError, match="depend|record"):
        SaliencyConsistency()(lambda v: nn.Linear(12, 3)(v.detach()), x, y)
    encoder = nn.Sequential(
        nn.Unflatten(1, (3, 4)),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    v = x.clone().requires_grad_()
    with pytest.raises(InputError, match="second derivative"):
        SaliencyConsistency().from_logits(encoder(v), v, y)
    with pytest.raises(InputError, match="requires_grad_"):
        SaliencyConsistency().from_logits(encoder(x), x, y)


def test_invariances():
    model, x, y = mlp((10,)), draw(9, 10, seed=5), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3])
    value = SaliencyConsistency()(model, x, y)
    model[3].weight.data.mul_(7.3), model[3].bias.data.mul_(-2)
    assert value > 1e-4 and abs(SaliencyConsistency()(model, x, y) - value) < 1e-8
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert abs(SaliencyConsistency()(model, x[order], y[order]) - value) < 1e-8
    g = draw(4, 2, 6, 7)
    assert (amplitude_spectrum(g.roll((2, 3), (-2, -1))) - amplitude_spectrum(g)).abs().max() < 1e-14
    assert (amplitude_spectrum(g.flip((-2, -1))) - amplitude_spectrum(g)).abs().max() < 1e-14


def test_zero_gradients_where_there_is_nothing_to_compare():
    model = mlp((8,))
    model[1].weight.data.zero_()
    value = SaliencyConsistency()(model, draw(6, 8), torch.tensor([0, 0, 1, 1, 2, 2]))
    value.backward()
    assert value == 0 and all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


@given(st.sampled_from([(9,), (2, 6), (2, 4, 5)]), st.integers(0, 1000))
def test_penalties_against_loops(shape, seed):
    model, x, y = (
        mlp(shape, seed=seed),
        draw(5, *shape, seed=seed).requires_grad_(),
        torch.tensor([0, 1, 2, 3, 1]),
    )
    squares = jacobian = variation = 0.0
    for v, c in zip(x.detach(), y):
        v = v[None].clone().requires_grad_()
        squares += torch.autograd.grad(F.cross_entropy(model(v), c[None]), v)[0].square().sum().item() / 5
        rows = [torch.autograd.grad(model(v)[0, j], v)[0][0] for j in range(4)]
        jacobian += sum(r.square().sum().item() for r in rows) / 10
        r = rows[c]
        variation += (
            np.abs(np.diff(r.numpy(), axis=-1)).sum()
            + (np.abs(np.diff(r.numpy(), axis=-2)).sum() if r.ndim == 3 else 0)
        ) / 5
    assert abs(input_gradient_penalty(model(x), x, y).item() - squares) < 1e-11
    assert abs(jacobian_penalty(model(x), x).item() - jacobian) < 1e-11
    assert abs(saliency_variation(model(x), x, y).item() - variation) < 1e-11


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 10)])
def test_fourier_sensitivity_against_the_full_spectrum(size):
    model, x, y = mlp((2, *size)), draw(3, 2, *size).requires_grad_(), torch.tensor([0, 1, 2])
    g = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0].mean(1).numpy()
    power = np.abs(np.fft.fft2(g)) ** 2
    k = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1]))
    power[:, 0, 0] = 0
    for band, (low, high) in {"low": (0, 1 / 6), "middle": (1 / 6, 1 / 3), "high": (1 / 3, 1)}.items():
        outside = (power * ((k < low) | (k >= high))).sum((1, 2)) / power.sum((1, 2))
        assert abs(fourier_sensitivity(model(x), x, y, band=band).item() - outside.mean()) < 1e-8
    ring = np.round(k * min(size))
    share = np.stack([power[:, ring == r].sum(1) for r in range(1, min(size) // 2 + 1)], 1)
    share = share / share.sum(1, keepdims=True)
    assert (
        abs(fourier_sensitivity(model(x), x, y, band="all").item() - (share * np.log(share)).sum(1).mean())
        < 1e-7
    )


@pytest.mark.parametrize(
    "penalty",
    [input_gradient_penalty, saliency_variation, fourier_sensitivity, lambda z, x, y: jacobian_penalty(z, x)],
)
def test_penalties_have_the_gradient_of_finite_steps(penalty):
    model, x, y = mlp((1, 4, 5)), draw(4, 1, 4, 5).requires_grad_(), torch.tensor([0, 1, 2, 3])
    names, weights = zip(*((n, p.detach().clone().requires_grad_()) for n, p in model.named_parameters()))
    assert torch.autograd.gradcheck(
        lambda *w: penalty(torch.func.functional_call(model, dict(zip(names, w)), (x,)), x, y), weights
    )


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 3), st.integers(0, 1000))
def test_focal_frequency_against_the_full_spectrum(h, w, alpha, seed):
    a, b = draw(2, 3, h, w, seed=seed), draw(2, 3, h, w, seed=seed + 1)
    D = np.abs(np.fft.fft2((a - b).numpy(), norm="ortho"))
    weight = D**alpha / (D**alpha).max((-2, -1), keepdims=True)
    assert abs(FocalFrequency(alpha=alpha)(a, b).item() - (weight * D**2).mean()) < 1e-10
    assert (
        FocalFrequency(alpha=alpha)(a, a) == 0
        and abs(FocalFrequency(alpha=alpha)(a, b) - FocalFrequency(alpha=alpha)(b, a)) < 1e-12
    )


def test_spectral_norm_and_gradient_ratio():
    model, x, y = mlp((6,)), draw(5, 6), torch.tensor([0, 1, 2, 3, 0])
    want = sum(
        np.linalg.svd(p.detach().numpy(), compute_uv=False)[0] ** 2 / 2
        for p in model.parameters()
        if p.ndim == 2
    )
    assert abs(spectral_norm_penalty(model).item() - want) < 1e-12
    task = F.cross_entropy(model(x), y)
    a, b = (
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(
                    v, list(model.parameters()), retain_graph=True, allow_unused=True
                )
                if g is not None
            ]
        ).norm()
        for v in (0.3 * spectral_norm_penalty(model), task)
    )
    assert abs(gradient_ratio(0.3 * spectral_norm_penalty(model), task, model.parameters()) - a / b) < 1e-12


def test_both_halves_of_the_contract_are_here():
    assert {"SpectralTruncation", "InterScaleSimilarity", "SaliencyConsistency", "FocalFrequency"} <= set(
        regularizers.__all__
    )
    assert saliency(mlp((6,))(x := draw(2, 6).requires_grad_()), x, torch.tensor([0, 1])).shape == x.shape
