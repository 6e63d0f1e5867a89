"""Stacked training against torch's own optimiser and plain loops, on random networks, data and hyper-
parameters."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.learn.ensemble import Ensemble, StackedAdamW, initial, members, order
from spectral_diffusion.learn.ensemble_training import DECAYS, StackedConsistency, gradients, train_ensemble
from spectral_diffusion.learn.regularizers import SaliencyConsistency

WIDE = torch.float64


class Residual(nn.Module):
    """A network that is no sequence: a skip, a norm, a layer used twice, a shared weight, a constant in a
    buffer."""

    def __init__(self, length, k):
        super().__init__()
        self.inner, self.norm, self.outer = (
            nn.Linear(length, length),
            nn.LayerNorm(length),
            nn.Linear(length, k),
        )
        self.again, self.third = self.inner, nn.Linear(length, length)
        self.third.weight = self.inner.weight
        self.register_buffer("gain", torch.tensor(0.7))

    def forward(self, x):
        return self.outer(
            x + self.gain * torch.tanh(self.again(self.norm(torch.tanh(self.third(self.inner(x))))))
        )


def mlp(length, k):
    return nn.Sequential(nn.Linear(length, 9), nn.ReLU(), nn.Linear(9, k))


def mlp_without_bias(length, k):
    return nn.Sequential(nn.Linear(length, 9, bias=False), nn.GELU(), nn.Linear(9, k))


def cnn(length, k):
    return nn.Sequential(
        nn.Unflatten(1, (1, length)),
        nn.Conv1d(1, 3, 3, 2, 1),
        nn.ReLU(),
        nn.Conv1d(3, 4, 3, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(8, k),
    )


MAKERS = [mlp, mlp_without_bias, cnn, Residual]


def alone(model, x, y, seed, lr, decay_of_weights, weight, *, epochs, batch, decay, rule):
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay_of_weights)
    total = epochs * math.ceil(len(y) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: 1.0 if decay == "none" else 0.5 * (1 + math.cos(math.pi * s / total))
    )
    for epoch in range(epochs):
        for rows in order(len(y), seed, epoch).split(batch):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            if rule:
                loss = loss + weight * rule(model, x[rows], y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
    return model


@settings(max_examples=12)
@given(
    make=st.sampled_from(MAKERS),
    length=st.sampled_from([7, 8]),
    n=st.integers(9, 30),
    batch=st.integers(4, 12),
    size=st.integers(1, 4),
    decay=st.sampled_from(list(DECAYS)),
    rule=st.sampled_from(
        [
            None,
            SaliencyConsistency(),
            SaliencyConsistency(reduction="sum", unbiased=False),
            SaliencyConsistency(unit=False, min_count=3),
        ]
    ),
    seed=st.integers(0, 10**6),
)
def test_at_once_is_one_by_one(make, length, n, batch, size, decay, rule, seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, length, generator=g, dtype=WIDE), torch.randint(3, (n,), generator=g)

    def draw(low, high):
        return [low * (high / low) ** torch.rand((), generator=g).item() for _ in range(size)]

    m = members(
        [int(torch.randint(100, (), generator=g)) for _ in range(size)],
        lr=draw(1e-4, 0.1),
        weight_decay=draw(1e-4, 1.0),
        weight=draw(0.01, 10.0) if rule else 0.0,
    )
    models = [v.to(WIDE) for v in initial(lambda: make(length, 3), m.seeds)]
    ensemble = Ensemble(models)
    epochs = list(
        train_ensemble(
            ensemble, x, y, m, epochs=2, batch=batch, decay=decay, penalty=rule and StackedConsistency(rule)
        )
    )
    assert [e.epoch for e in epochs] == [1, 2]
    for i, model in enumerate(models):
        alone(
            model,
            x,
            y,
            m.seeds[i],
            m.lr[i],
            m.weight_decay[i],
            m.weight[i],
            epochs=2,
            batch=batch,
            decay=decay,
            rule=rule,
        )
        torch.testing.assert_close(
            ensemble.flat[i],
            torch.cat([p.detach().flatten() for p in model.parameters()]),
            rtol=1e-9,
            atol=1e-9,
        )
        torch.testing.assert_close(ensemble.member(i)(x), model(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        ensemble.accuracy(x, y), torch.stack([(v(x).argmax(1) == y).to(WIDE).mean() for v in models])
    )


@pytest.mark.parametrize("dtype", [torch.float32, WIDE])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5)])
def test_the_optimiser_is_torchs(dtype, betas):
    g = torch.Generator().manual_seed(3)
    start, lr, decay = (
        torch.randn(5, 17, generator=g, dtype=dtype),
        [1e-4, 1e-2, 0.3, 1e-3, 0.05],
        [0.0, 0.01, 0.1, 30.0, 1.0],
    )
    mine, rows = start.clone(), [nn.Parameter(r.clone()) for r in start]
    stacked, torchs = (
        StackedAdamW(mine, lr, decay, betas=betas),
        [torch.optim.AdamW([p], lr=a, weight_decay=b, betas=betas) for p, a, b in zip(rows, lr, decay)],
    )
    for _ in range(30):
        grad = torch.randn(5, 17, generator=g, dtype=dtype) * torch.logspace(-9, 3, 17, dtype=dtype)
        stacked.step(grad)
        for p, opt, row in zip(rows, torchs, grad):
            p.grad = row
            opt.step()
    torch.testing.assert_close(
        mine,
        torch.stack([p.detach() for p in rows]),
        rtol=1e-12 if dtype is WIDE else 1e-5,
        atol=0 if dtype is WIDE else 1e-6,
    )


@pytest.mark.parametrize("make", MAKERS)
def test_gradients_are_those_of_each_member(make):
    g = torch.Generator().manual_seed(0)
    models = [v.to(WIDE) for v in initial(lambda: make(8, 3), range(4))]
    x, y, weight = (
        torch.randn(4, 10, 8, generator=g, dtype=WIDE),
        torch.randint(3, (4, 10), generator=g),
        [0.0, 1.0, 5.0, 20.0],
    )
    task, extra, grad = gradients(Ensemble(models), x, y, weight, StackedConsistency())
    for i, model in enumerate(models):
        penalty = SaliencyConsistency()(model, x[i], y[i])
        loss = F.cross_entropy(model(x[i]), y[i])
        wanted = torch.autograd.grad(
            loss + weight[i] * penalty, list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(grad[i], torch.cat([v.flatten() for v in wanted]), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            torch.stack([task[i], extra[i]]), torch.stack([loss, penalty]).detach(), rtol=1e-12, atol=1e-12
        )


def test_a_member_does_not_depend_on_its_company():
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(40, 8, generator=g, dtype=WIDE), torch.randint(3, (40,), generator=g)
    ends = []
    for company in ((7,), (1, 7), (7, 7, 2)):
        ensemble = Ensemble([v.to(WIDE) for v in initial(lambda: mlp(8, 3), company)])
        for _ in train_ensemble(ensemble, x, y, members(company, lr=0.01), epochs=2, batch=16):
            pass
        ends.append(ensemble.flat[company.index(7)])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-12, atol=1e-14)


def test_a_model_without_a_path_to_its_input_is_an_error():
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return self.bias.expand(len(x), 3)

    x, y = torch.zeros(4, 8), torch.arange(4) % 3
    with pytest.raises(InputError, match="do not depend"):
        next(
            train_ensemble(
                Ensemble([Deaf()]),
                x,
                y,
                members((0,), lr=0.1, weight=1.0),
                epochs=1,
                penalty=StackedConsistency(),
            )
        )
