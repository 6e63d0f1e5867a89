"What the frequency view changes in generative models, in numbers that can be trusted."
from .core.moved import find_moved_modules

__version__ = "0.1.0"

find_moved_modules()
