"MNIST-1D against its own program at full size; nothing global is touched, and what is kept is plain."

import random
import sys
import zipfile

import numpy as np
import pytest
import torch

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.data import mnist1d as page
from spectral_diffusion.data.mnist1d import mnist1d

data = pytest.importorskip("mnist1d.data")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("signals")


def program(samples, seed):
    "What the package gives when it is called as its documentation says."
    args = data.get_dataset_args()
    args.num_samples, args.seed = samples, seed
    return data.make_dataset(args)


def test_the_parts_of_the_study_are_the_rows_of_the_program(home):
    with page.global_random_state():
        made = program(10_000, 42)
    train, valid, test = (mnist1d(s, home) for s in ("train", "valid", "test"))
    assert (len(train.y), len(valid.y), len(test.y)) == (7_000, 1_000, 2_000)
    np.testing.assert_array_equal(torch.cat([train.x, valid.x]).numpy(), made["x"].astype(np.float32))
    np.testing.assert_array_equal(test.x.numpy(), made["x_test"].astype(np.float32))
    np.testing.assert_array_equal(
        torch.cat([train.y, valid.y, test.y]).numpy(), np.concatenate([made["y"], made["y_test"]])
    )
    assert (
        train.x.dtype == torch.get_default_dtype() and train.y.dtype == torch.int64 and train.x.shape[1] == 40
    )


def test_fresh_signals_are_twice_as_many_and_new(home):
    fresh, known = mnist1d("fresh", home, samples=2_000), mnist1d("train", home)
    assert fresh.x.shape == (4_000, 40) and fresh.y.bincount().tolist() == [400] * 10
    assert len(torch.cat([fresh.x, known.x]).unique(dim=0)) == 11_000
    # each draw is scaled by its own standard deviation; two draws agree on it (`t` is divided by it)
    with page.global_random_state():
        assert abs(program(1_000, 42)["t"][5] / program(1_000, 777)["t"][5] - 1) < 0.03


def test_global_random_states_are_left_alone(home):
    random.seed(1), np.random.seed(1)
    before = random.getstate(), np.random.get_state()
    page.draw_mnist1d(100, 9)
    after = random.getstate(), np.random.get_state()
    assert before[0] == after[0] and all(np.array_equal(a, b) for a, b in zip(before[1], after[1]))


def test_the_state_comes_back_after_an_error():
    random.seed(2), np.random.seed(2)
    before = random.getstate()
    with pytest.raises(KeyError), page.global_random_state():
        random.random(), np.random.rand()
        raise KeyError
    assert random.getstate() == before and np.random.rand() == np.random.RandomState(2).rand()


def test_files_are_plain_arrays_and_found_in_any_place(home, tmp_path, monkeypatch):
    mnist1d("test", tmp_path / "a", samples=100)
    (file,) = (tmp_path / "a").iterdir()
    assert (
        sorted(zipfile.ZipFile(file).namelist()) == ["x.npy", "y.npy"]
        and np.load(file, allow_pickle=False)["x"].dtype == np.float32
    )
    monkeypatch.setenv("SPECTRAL_DIFFUSION_DATA", str(tmp_path / "a"))
    monkeypatch.setattr(page, "draw_mnist1d", lambda *a: pytest.fail("drawn again"))
    assert len(mnist1d("test", tmp_path / "b", samples=100).y) == 20 and not (tmp_path / "b").exists()


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    for name in ("mnist1d", "mnist1d.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install -e .\.\[mnist1d\]"):
        mnist1d("test", tmp_path, samples=100)
    assert not list(tmp_path.iterdir())


def test_an_unreadable_file_is_named(tmp_path):
    mnist1d("test", tmp_path, samples=100)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:1_000])
    with pytest.raises(InputError, match=file.name):
        mnist1d("test", tmp_path, samples=100)
