"Fused networks are the same functions: outputs and gradients, wherever there is a compiler."

import pytest
import torch

from spectral_diffusion.core.runtime import stream
from spectral_diffusion.models.fuse import compiler, fuse
from spectral_diffusion.models.zoo import build_model

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler on this machine")


@pytest.mark.parametrize(
    "config",
    [
        {"name": "unet_spectral_published", "base": 4, "form": "gauss"},
        {"name": "mixer", "kind": "modes", "width": 8},
    ],
    ids=lambda c: c["name"],
)
def test_fused_equals_eager(config):
    eager, fused = build_model(config, seed=3).double(), fuse(build_model(config, seed=3).double())
    assert any(
        a is not b
        for a, b in zip(
            (m.activation for m in eager.modules() if hasattr(m, "activation")),
            (m.activation for m in fused.modules() if hasattr(m, "activation")),
            strict=True,
        )
    )
    for p, q in zip(eager.parameters(), fused.parameters(), strict=True):
        p.data = torch.randn(p.shape, generator=stream(p.numel(), "fuse"), dtype=p.dtype).mul_(0.2)
        q.data = p.data.clone()
    x, t = (
        torch.randn(3, 3, 14, 12, generator=stream(0, "fuse/x"), dtype=torch.float64),
        torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64),
    )
    for _ in range(2):
        outs = [net(x, t) for net in (eager, fused)]
        torch.testing.assert_close(outs[1], outs[0], rtol=1e-10, atol=1e-11)
        for net, y in zip((eager, fused), outs, strict=True):
            net.zero_grad()
            y.square().sum().backward()
        largest = max(
            p.grad.abs().max() for p in eager.parameters()
        )  # a bias before a batch norm has none of its own
        for (name, p), q in zip(eager.named_parameters(), fused.parameters(), strict=True):
            assert (p.grad - q.grad).abs().max() <= 1e-10 * largest, name
