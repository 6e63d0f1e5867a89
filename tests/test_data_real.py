"""CIFAR-10 against the readers of other libraries: pickle, torchvision, PIL; and a server that never
answers."""

import hashlib
import pickle
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data import real


def records(n, seed=0):
    rng = np.random.default_rng(seed)
    out = rng.integers(0, 256, (n, real.RECORD), dtype=np.uint8)
    out[:, 0] %= 10
    return out


def copy(home, layout, n=4):
    "A fake copy and its table of checksums."
    files = {name: records(n, i) for i, name in enumerate(real.SHA256)}
    folder = home / layout
    folder.mkdir(parents=True)
    for name, r in files.items():
        if layout == real.BINARY:
            r.tofile(folder / name)
        else:
            batch = {"data": r[:, 1:].copy(), "labels": r[:, 0].tolist()}
            (folder / name.removesuffix(".bin")).write_bytes(pickle.dumps(batch, 4))
    return files, {name: hashlib.sha256(r.tobytes()).hexdigest() for name, r in files.items()}


@pytest.fixture
def alone(tmp_path, monkeypatch):
    "No copy anywhere but in the folder of the test."
    monkeypatch.delenv("SPECTRAL_DIFFUSION_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_python3_pickles_read_like_pickle(alone):
    files, table = copy(alone, real.PYTHON)
    for name in files:
        path = alone / real.PYTHON / name.removesuffix(".bin")
        ours, theirs = real.read_pickle(path), pickle.loads(path.read_bytes())
        assert np.array_equal(ours[:, 1:], theirs["data"]) and ours[:, 0].tolist() == theirs["labels"]
    assert real.cifar10("train", alone, checksums=table).x.shape == (20, 3, 32, 32)


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.getattr", "numpy.fromfile", "subprocess.Popen"]
)
def test_pickles_that_name_anything_else_are_refused(tmp_path, name):
    module, attribute = name.rsplit(".", 1)
    path = tmp_path / "batch"
    path.write_bytes(f"c{module}\n{attribute}\n.".encode())  # opcodes GLOBAL and STOP
    pickle.loads(path.read_bytes())  # the ordinary reader hands it out
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        real.read_pickle(path)


@given(place=st.integers(0, 6 * real.RECORD - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_seen(tmp_path_factory, place, bit):
    home = tmp_path_factory.mktemp("flip")
    files, table = copy(home, real.BINARY, n=6)
    path = home / real.BINARY / "data_batch_3.bin"
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="data_batch_3.bin is damaged"):
        real.cifar10("train", home, checksums=table)
    assert real.cifar10("test", home, checksums=table).y.tolist() == files["test_batch.bin"][:, 0].tolist()


def test_images_agree_with_torchvision(alone, monkeypatch):
    from torchvision.datasets import CIFAR10

    _, table = copy(alone, real.PYTHON)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
    for split in ("train", "test"):
        theirs, ours = CIFAR10(alone, train=split == "train"), real.cifar10(split, alone, checksums=table)
        assert (
            np.array_equal(theirs.data, ours.x.permute(0, 2, 3, 1).numpy())
            and theirs.targets == ours.y.tolist()
        )


def test_to_float_agrees_with_torchvision():
    from torchvision.transforms.functional import to_pil_image, to_tensor

    x = torch.from_numpy(records(2)[:, 1:].reshape(-1, 3, 32, 32))
    theirs = torch.stack([to_tensor(to_pil_image(i)) for i in x]) * 2 - 1
    assert (real.to_float(x) - theirs).abs().max() <= 2 * torch.finfo(
        torch.float32
    ).eps  # two roundings apart


def test_names_that_have_pages_of_their_own_are_found_here_too():
    from spectral_diffusion.data import mnist1d, photographs

    assert real.photographs is photographs.photographs and real.split_of is photographs.split_of
    assert real.mnist1d is mnist1d.mnist1d and real.Signals is mnist1d.Signals


def test_a_server_that_never_answers_costs_only_the_limit():
    # the server is still silent when this has returned
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError):
        real.reach(f"http://127.0.0.1:{server.getsockname()[1]}/", 0.3)


def test_a_refused_connection_is_an_oserror():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError):
        real.reach(f"http://127.0.0.1:{port}/", 3)


def test_a_stalled_program_is_not_left_running(tmp_path, monkeypatch):
    started, popen = [], subprocess.Popen

    def noted(*words, **options):
        started.append(popen(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    with pytest.raises(TimeoutError):
        real.run_watched([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, stall=0.5)
    assert started[0].returncode == -signal.SIGKILL


def test_every_way_failing_names_three_ways(alone, monkeypatch):
    def fails(room):
        raise OSError("no network")

    monkeypatch.setattr(real.WAYS, "_items", {"torchvision": fails, "npm": fails})
    with pytest.raises(InputError) as caught:
        real.cifar10("test")
    assert all(
        part in str(caught.value)
        for part in ("torchvision: no network", "npm: no network", "(1)", "(2)", "(3)")
    )
    assert [p.name for p in (alone / "cache").rglob("*")] == ["spectral-diffusion"]


def test_two_processes_may_fetch_at_once(alone):
    files, table = copy(alone / "source", real.BINARY)
    target = alone / "home" / real.BINARY

    def way(room):
        if not target.exists():
            real.fetch_cifar10(
                alone / "home", ways={"other": lambda r: alone / "source" / real.BINARY}, checksums=table
            )
        return alone / "source" / real.BINARY

    assert real.fetch_cifar10(alone / "home", ways={"slow": way}, checksums=table) == target
    assert [p.name for p in (alone / "home").iterdir()] == [real.BINARY]


def test_importing_costs_neither_torchvision_nor_network():
    code = (
        "import sys, spectral_diffusion.data.real; print('torchvision' in sys.modules, 'PIL' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split()[0] == "False"


@pytest.mark.skipif(real.find_cifar10() is None, reason="no copy of CIFAR-10 on this machine")
def test_the_copy_on_this_machine_is_the_published_one():
    test = real.cifar10("test", download=False)
    assert test.x.shape == (10_000, 3, 32, 32) and test.y.bincount().tolist() == [1000] * 10
    assert test.y[:6].tolist() == [3, 8, 8, 0, 6, 6]
