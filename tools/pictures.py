"""The two pictures of the front page, from the shipped weights.

`nbs/images/samples.png` and `nbs/images/strip.png`.

    python tools/pictures.py        needs CIFAR-10, for the photographs of the strip

The sheet has the first 64 samples of seed 0, none left out. The strip shows the same nine test images with
noise, after the Wiener filter and after the network, and nine samples.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
from spectral_diffusion.core.files import atomic_file  # noqa: E402
from spectral_diffusion.core.runtime import stream  # noqa: E402
from spectral_diffusion.data.sets import floats, load_images  # noqa: E402
from spectral_diffusion.run.pictures import draw_samples, sheet  # noqa: E402
from spectral_diffusion.run.pretrained import pretrained  # noqa: E402
from spectral_diffusion.run.resolved import fitted_statistics  # noqa: E402

NAME, TIME = "cifar10", 0.35  # of the weights; of the noise in the strip
SCALE, LABEL = 2, 26  # enlargement; pixels of a line of text


def enlarged(x: Tensor) -> Image.Image:
    "Images (n, c, h, w) on one sheet."
    pixels = Image.fromarray(sheet(x).numpy())
    return pixels.resize((SCALE * pixels.width, SCALE * pixels.height), Image.Resampling.NEAREST)


def stages() -> dict[str, Tensor]:
    "Label -> nine images."
    denoiser = pretrained(NAME)
    process, t = denoiser.process, torch.full((9,), TIME)
    x0 = floats(load_images("cifar10").test[:9])
    noisy = process.diffuse(x0, t, process.noise(x0, stream(0, "pictures/noise")))
    wiener = fitted_statistics("cifar10", 10_000).denoiser(process)
    with torch.no_grad():
        filtered, denoised = wiener(noisy, t), denoiser(noisy, t)
    drawn = draw_samples(denoiser, 9, sampler="dpm_solver++", steps=20)
    shown = noisy / process.gains(TIME).a
    return {"noisy": shown, "Wiener filter": filtered, "network": denoised, "generated": drawn}


def strip(parts: dict[str, Tensor]) -> Image.Image:
    "The stages side by side, each with its label below."
    tiles, gap = {label: enlarged(x) for label, x in parts.items()}, 12
    width, height = next(iter(tiles.values())).size
    out = Image.new("RGB", (len(tiles) * (width + gap) - gap, height + LABEL), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(size=18)
    for i, (label, tile) in enumerate(tiles.items()):
        left = i * (width + gap)
        out.paste(tile, (left, 0))
        draw.text((left + width / 2, height + LABEL / 2), label, "black", font, anchor="mm")
    return out


def save(picture: Image.Image, path: Path) -> None:
    "A PNG, complete or absent."
    with atomic_file(path) as partial:
        picture.save(partial, format="PNG", optimize=True)
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {path.stat().st_size} bytes")


def main() -> int:
    folder = ROOT / "nbs" / "images"
    save(
        enlarged(draw_samples(pretrained(NAME), 64, sampler="dpm_solver++", steps=20)), folder / "samples.png"
    )
    save(strip(stages()), folder / "strip.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
