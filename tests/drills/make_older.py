"""Write the stored results in tests/older with an older version of the package, once.

    PYTHONPATH=<checkout of the old version> python tests/drills/make_older.py tests/older run|codec|sweep

Three versions made them: the first that trained (b313e81), the first with coded files (758375c), the first
with sweeps from factors (f445e5f).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def tell(out: Path, **facts: object) -> None:
    "Add what was true when the files were written."
    file = out / "told.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(old | facts, indent=1, sort_keys=True) + "\n")


def run(out: Path) -> None:
    "A record of a training run with its checkpoint, and what its network answers."
    import torch

    from spectral_diffusion.core.runtime import stream
    from spectral_diffusion.run.experiment import train_run
    from spectral_diffusion.run.saved import load_denoiser
    from spectral_diffusion.run.settings import DataConfig, EvalConfig, RunConfig, TrainConfig

    config = RunConfig(
        data=DataConfig(name="power_law", statistics=64),
        model={"name": "unet_tiny", "base": 4, "depth": 1},
        train=TrainConfig(steps=6, batch=4, checkpoint=4),
        evaluation=EvalConfig(images=8, points=3, samples=2, sample_steps=2),
        preconditioning="spectral",
    )
    record = train_run(config, out / "results")
    x = torch.randn(2, 3, 32, 32, generator=stream(0, "older"))
    with torch.no_grad():
        y = load_denoiser(record)(x, torch.tensor([0.3, 0.7]))
    tell(
        out,
        run=record.path.name,
        loss=record.metrics["loss"],
        evaluations=len(record.history()),
        answer=y[:, :, ::8, ::8].flatten().tolist(),
        versions={"record": "b313e81", "codec": "758375c", "sweep": "f445e5f"},
    )


def codec(out: Path) -> None:
    "A codec, a coded picture, and the picture that it was decoded to."
    import torch

    from spectral_diffusion.codec.bitstream import compress, decompress
    from spectral_diffusion.codec.files import write_image
    from spectral_diffusion.codec.hierarchical import build_codec, save_codec
    from spectral_diffusion.codec.layers import CodecConfig
    from spectral_diffusion.core.runtime import stream

    made = build_codec(
        CodecConfig(channels=(6, 6), widths=(8, 8), encoder=(1, 0), decoder=(1, 1), embedding=4), seed=3
    ).eval()
    save_codec(out / "codec", made)
    image = torch.randint(0, 256, (3, 21, 30), generator=stream(0, "older/picture"), dtype=torch.uint8)
    (out / "coded.sdc").write_bytes(compress(made, image, 40))
    write_image(out / "decoded.png", decompress(made, (out / "coded.sdc").read_bytes()))


def sweep(out: Path) -> None:
    "The folder of a sweep from factors."
    import nbformat

    from spectral_diffusion.study.ledger import load_ledger
    from spectral_diffusion.study.studies import read_study, run_study

    page = out / "page.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell("lr = 0.1\nsteps = 3\nout = ''", metadata={"tags": ["parameters"]})
            ],
            metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        ),
        page,
    )

    def descend(parameters, folder):
        (folder / "metrics.json").write_text(
            json.dumps({"loss": (1 - parameters["lr"]) ** parameters["steps"]})
        )

    run_study(
        page,
        {"lr": [0.1, 0.3], "steps": [2, 4]},
        "L4",
        "sequential",
        root=out / "results" / "study",
        run=descend,
    )
    page.unlink()
    _, y, _ = read_study(out / "results" / "study", "loss")
    tell(out, rows=len(y), losses=y.tolist(), ledger=sorted(load_ledger(out / "results").fingerprint))


if __name__ == "__main__":
    {"run": run, "codec": codec, "sweep": sweep}[sys.argv[2]](Path(sys.argv[1]))
