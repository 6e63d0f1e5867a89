"Packaging: everything that varies is read from settings.ini, which nbdev reads too."
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here/"settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
readme = here/"README.md"


class BuildWithBook(build_py):
    """A wheel brings the benchmark notebooks along, as spectral_diffusion/book/nbs/bench, and the notebook that a
    sweep of training runs executes."""

    def run(self):
        super().run()
        if self.editable_mode:
            return  # the checkout itself is there
        target = Path(self.build_lib)/"spectral_diffusion"/"book"/"nbs"/"bench"
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((here/"nbs"/"bench").iterdir()):
            if path.suffix in (".ipynb", ".npy", ".csv"):
                shutil.copy(path, target/path.name)
        page = "study/one_run.ipynb"
        shutil.copy(here/"nbs"/page, Path(self.build_lib)/"spectral_diffusion"/page)


setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], author=cfg["author"],
    author_email=cfg["author_email"], license="MIT", keywords=cfg["keywords"], url=cfg["git_url"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    cmdclass={"build_py": BuildWithBook},
    packages=find_packages(include=[f"{cfg['lib_path']}*"]), include_package_data=True,
    package_data={"spectral_diffusion": ["py.typed"], "spectral_diffusion.data": ["*.json"],
                  "spectral_diffusion.measure": ["*.safetensors", "*.json"],
                  "spectral_diffusion.run": ["weights/*.safetensors"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split(), **{k.removeprefix("extra_"): v.split() for k, v in cfg.items() if k.startswith("extra_")}},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Intended Audience :: Science/Research",
    ],  # the versions that .github/workflows/test.yml runs
)
