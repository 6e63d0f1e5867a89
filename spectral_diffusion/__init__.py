"Diffusion models seen by frequency: noise, networks, losses, samplers and their exact errors."
from typing import TYPE_CHECKING

from .core.front import FRONT, names_at_the_top
from .core.moved import find_moved_modules

if TYPE_CHECKING:  # what `__getattr__` finds, for editors and type checkers
    from .codec.rate_distortion import bd_rate as bd_rate
    from .core.plot import show_images as show_images
    from .core.runtime import stream as stream
    from .data.folders import pictures as pictures
    from .data.pixels import to_float as to_float
    from .data.real import cifar10 as cifar10
    from .data.stream import batch as batch
    from .doe.arrays import orthogonal_array as orthogonal_array
    from .doe.taguchi import analyze as analyze
    from .learn.loop import train as train
    from .measure.features import frechet_distance as frechet_distance
    from .models.zoo import build_model as build_model
    from .noise.denoiser import wrap as wrap
    from .noise.process import Process as Process
    from .noise.theory import GaussianField as GaussianField
    from .sampling.engine import sample as sample
    from .sampling.steps import steps as steps
    from .sampling.transfer import transfer as transfer
    from .signals.spectra import radial_power as radial_power

__version__ = "0.2.0"
__all__ = sorted(FRONT)
__getattr__ = names_at_the_top(globals())


def __dir__():
    "What is there, and what is found when asked for."
    return sorted({*globals(), *FRONT})


find_moved_modules()
