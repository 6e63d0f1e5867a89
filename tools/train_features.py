"""Train the small classifier behind the extractor `cifar10` of `measure/features`, and write its two files.

    python tools/train_features.py [--epochs 5] [--seed 0] [--threads 1] [--data DIR] [--out DIR]

CIFAR-10's training images, flips and crops, stochastic gradient descent with a one-cycle learning rate. Batch
normalisation is folded into the convolutions, the weights are rounded to half precision, and the accuracy on
the test images is that of the rounded network as the package runs it. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from spectral_diffusion.core.files import atomic_file, sha256  # noqa: E402
from spectral_diffusion.core.runtime import progress, stream  # noqa: E402
from spectral_diffusion.data.pixels import to_float
from spectral_diffusion.data.real import CLASSES, cifar10  # noqa: E402
from spectral_diffusion.measure.features import CIFAR10_WIDTHS, cifar10_logits, cifar10_network  # noqa: E402
from spectral_diffusion.run.record import write_json  # noqa: E402

NAME = "cifar10_features"
LICENCE = (
    "Trained from random weights by this project on the training images of CIFAR-10 (Krizhevsky 2009), with"
    " nothing else. The weights are released under the licence of the package (MIT). The images are not part"
    " of it."
)


class Net(nn.Module):
    "The network of `cifar10_network` with batch normalisation, and a linear head."

    def __init__(self):
        super().__init__()
        widths = [3, *CIFAR10_WIDTHS]
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in widths[1:])
        self.head = nn.Linear(widths[-1], len(CLASSES))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(cifar10_network(x, lambda i, y: self.norms[i](self.convs[i](y))))

    def folded(self) -> dict[str, Tensor]:
        "Weights and biases of the same network without batch normalisation, in half precision."
        tensors = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            tensors |= {
                f"{i}.weight": conv.weight * gain[:, None, None, None],
                f"{i}.bias": norm.bias - norm.running_mean * gain,
            }
        return {k: v.detach().to(torch.float16).contiguous() for k, v in tensors.items()}


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    "Each picture mirrored or not, and shifted by up to four pixels over a reflected border."
    n, (h, w) = len(x), x.shape[-2:]
    x = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, x.flip(-1), x)
    wide, (dy, dx) = pad(x, (4, 4, 4, 4), mode="reflect"), torch.randint(0, 9, (2, n, 1), generator=generator)
    rows, cols = dy + torch.arange(h), dx + torch.arange(w)
    return wide[
        torch.arange(n)[:, None, None, None],
        torch.arange(3)[None, :, None, None],
        rows[:, None, :, None],
        cols[:, None, None, :],
    ]


def rate(step: int, steps: int, peak: float) -> float:
    "A line up over the first fifth, a line down to zero over the rest."
    rise = 0.2 * steps
    return peak * min((step + 1) / rise, (steps - step) / (steps - rise))


def fit(
    net: Net,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    batch: int,
    lr: float,
    decay: float,
    smoothing: float,
    seed: int,
) -> None:
    "Train in place."
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=decay)
    per, generator = len(x) // batch, stream(seed, "features/batches")
    order = torch.cat([torch.randperm(len(x), generator=generator)[: per * batch] for _ in range(epochs)])
    net.train()
    for step in progress(range(per * epochs), desc="training", unit="step"):
        pick = order[step * batch : (step + 1) * batch]
        for group in optimizer.param_groups:
            group["lr"] = rate(step, per * epochs, lr)
        images = augmented(to_float(x[pick]), generator).contiguous(memory_format=torch.channels_last)
        loss = cross_entropy(net(images), y[pick], label_smoothing=smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % per == 0:
            print(
                f"epoch {(step + 1) // per}: loss of the last batch {loss.item():.3f},"
                f" {time.process_time():.0f} processor seconds",
                flush=True,
            )


@torch.no_grad()
def accuracy(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> float:
    "Share of the pictures that the packaged network names right."
    right = [
        cifar10_logits(to_float(a), weights).argmax(1) == b
        for a, b in zip(x.split(500), y.split(500), strict=True)
    ]
    return torch.cat(right).double().mean().item()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", help="folder of CIFAR-10")
    parser.add_argument(
        "--out", default=str(ROOT / "spectral_diffusion" / "measure"), help="folder of the two files"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    settings = {
        "epochs": args.epochs,
        "batch": 128,
        "lr": 0.15,
        "decay": 5e-4,
        "smoothing": 0.1,
        "seed": args.seed,
    }
    train, test, out = cifar10("train", args.data), cifar10("test", args.data), Path(args.out)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(args.seed, "features/init").initial_seed())
        net = Net()
    begin = time.monotonic()
    fit(net, train.x, train.y, **settings)
    wall = time.monotonic() - begin
    weights, net = net.folded(), net.eval()
    with torch.no_grad():
        x = to_float(test.x[:256])
        assert (net(x) - cifar10_logits(x, weights)).abs().max() < 0.05, "folding has changed the network"
    with atomic_file(out / f"{NAME}.safetensors") as partial:
        save_file(weights, partial)
    record = {
        "what": "features of a small classifier of CIFAR-10",
        "command": f"python tools/train_features.py --epochs {args.epochs} --seed {args.seed}",
        "settings": settings,
        "widths": list(CIFAR10_WIDTHS),
        "parameters": sum(v.numel() for v in weights.values()),
        "bytes": (out / f"{NAME}.safetensors").stat().st_size,
        "sha256": sha256(out / f"{NAME}.safetensors"),
        "test_accuracy": accuracy(weights, test.x, test.y),
        "test_images": len(test.x),
        "processor_seconds": round(time.process_time()),
        "wall_seconds": round(wall),
        "threads": args.threads,
        "torch": torch.__version__,
        "licence": LICENCE,
    }
    write_json(out / f"{NAME}.json", record)
    print(
        f"accuracy {record['test_accuracy']:.4f} on {record['test_images']} test images,"
        f" {record['parameters']} parameters, {record['bytes']} bytes"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
