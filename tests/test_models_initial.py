"Sources and initialisation against numpy, scipy and safetensors, and a network that an error leaves alone."

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats
from torch import nn

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.models.initial import (
    DISTRIBUTIONS,
    Source,
    from_distribution,
    from_file,
    from_images,
    from_transformer,
    initialise,
)
from spectral_diffusion.models.zoo import build_model


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def layers(widths, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(
        *(part for i, o in zip(widths, widths[1:]) for part in (nn.Linear(i, o), nn.LayerNorm(o)))
    ).to(dtype)


@given(
    widths=st.lists(st.integers(2, 9), min_size=2, max_size=5),
    count=st.integers(5, 200),
    scale=st.floats(0.01, 3),
    seed=st.integers(0, 5),
)
def test_published_mode_is_a_cyclic_copy_over_everything(widths, count, scale, seed):
    net, source = layers(widths), from_distribution("normal", count, seed=seed)
    record = initialise(net, source, mode="published", scale=scale)
    assert np.array_equal(flat(net).numpy(), np.resize(source.values.numpy(), len(flat(net))) * scale)
    assert (
        record["values"] == len(flat(net))
        and record["turns"] == len(flat(net)) / count
        and record["which"] == "all"
    )


@given(
    widths=st.lists(st.integers(2, 9), min_size=2, max_size=5),
    count=st.integers(5, 200),
    name=st.sampled_from(list(DISTRIBUTIONS)),
    shift=st.floats(-100, 100),
)
def test_matched_mode_is_the_z_score_of_each_slice(widths, count, name, shift):
    net, start = layers(widths), 0
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    values = from_distribution(name, count, seed=1).values + shift
    initialise(net, Source(values, "list", "shifted"))
    for key, p in net.named_parameters():
        if p.ndim < 2:
            assert torch.equal(p, before[key])
            continue
        rolled = np.resize(np.roll(values.numpy(), -(start % count)), p.numel())
        expected = stats.zscore(rolled) * before[key].numpy().std()
        assert np.abs(p.detach().numpy().ravel() - expected).max() < 1e-10
        start += p.numel()


@pytest.mark.parametrize("scale", [0.1, -2])
def test_a_number_as_scale_on_weights_alone(scale):
    net, source = build_model("unet_tiny"), from_distribution("uniform", 999)
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    initialise(net, source, scale=scale)
    changed = {k for k, v in net.named_parameters() if not torch.equal(v, before[k])}
    assert changed == {k for k, v in before.items() if v.ndim >= 2 and not k.startswith("head")}
    first = next(p for k, p in net.named_parameters() if k in changed).detach().flatten()
    assert (first - scale * source.values[torch.arange(len(first)) % 999].float()).abs().max() < 1e-6


def test_matched_over_everything_spares_what_is_constant():
    net = build_model("unet_tiny")
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    with pytest.raises(InputError, match="constant"):
        initialise(net, Source(torch.ones(3), "list", "x"), which="all")
    initialise(net, from_distribution("normal"), which="all")
    for key, p in net.named_parameters():
        assert abs(p.std(correction=0) - before[key].std(correction=0)) <= 1e-5 * before[key].std(
            correction=0
        ), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_keep_dtype_layout_and_grad(dtype):
    net = build_model("conv").to(dtype)
    initialise(net, from_distribution("laplace", 1_001))
    for p in net.parameters():
        assert p.dtype == dtype and p.requires_grad and p.is_leaf and p.isfinite().all()
    assert net.layers[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_an_error_in_the_last_layer_leaves_the_first_alone():
    net = layers([3, 4, 5])
    before = flat(net).clone()
    values = torch.cat(
        [torch.randn(12, dtype=torch.float64), torch.ones(20, dtype=torch.float64)]
    )  # 12 weights, then 20
    with pytest.raises(InputError, match="constant where '2.weight'"):
        initialise(net, Source(values, "list", "half"))
    half = layers([3, 4]).half()
    kept = flat(half).clone()
    with pytest.raises(InputError, match="not finite in torch.float16"):
        initialise(half, Source(torch.tensor([1.0] * 11 + [1e6]), "list", "large"), mode="published")
    assert torch.equal(flat(net), before) and torch.equal(flat(half), kept)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0},
        {"scale": 0.0},
        {"scale": float("inf")},
        {"scale": True},
        {"scale": "1"},
        {"which": "norms"},
        {"mode": "default"},
    ],
)
def test_bad_options(options):
    net = build_model("conv")
    before = flat(net).clone()
    with pytest.raises(InputError):
        initialise(net, from_distribution("normal", 10), **options)
    assert torch.equal(flat(net), before)


def test_nothing_to_change_is_an_error():
    net = build_model("conv")
    own = Source(flat(net).clone(), "list", "own")
    with pytest.raises(InputError, match="change nothing"):
        initialise(net, own, mode="published")
    with pytest.raises(InputError, match="no parameter"):
        initialise(nn.LayerNorm(3), own)
    initialise(net, own, mode="published", scale=2.0)
    assert torch.equal(flat(net), 2 * own.values)


def test_record_is_json_and_names_no_folder(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(24).reshape(4, 6))
    record = initialise(build_model("conv"), from_file(tmp_path / "a.npy"))
    text = json.dumps(record)
    assert str(tmp_path) not in text and json.loads(text) == record
    assert record["source"] == from_file(tmp_path / "a.npy").record()


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "<i8", "|u1", "<i2"])
def test_numpy_files_of_any_real_kind(tmp_path, dtype):
    array = np.arange(30).reshape(2, 3, 5).astype(dtype)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    try:
        got = from_file(tmp_path / "a.npy")
    except InputError:
        assert dtype.startswith(">")  # the other byte order is refused by torch, with a message
    else:
        assert got.values.tolist() == list(range(30))


@pytest.mark.parametrize(
    "content",
    [np.array([True, False]), np.array([1j, 2]), np.array(["a"]), np.array([object()], dtype=object)],
)
def test_files_that_are_no_real_numbers(tmp_path, content):
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(InputError, match="a.npy"):
        from_file(tmp_path / "a.npy")


def test_files_that_are_broken(tmp_path):
    for name in ("empty.npy", "empty.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.safetensors").write_text("no tensors at all")
    np.save(tmp_path / "none.npy", np.zeros(0))
    save_file({}, tmp_path / "none.safetensors")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError):
            from_file(path)
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan, np.inf]))
    with pytest.raises(InputError, match="2 values that are not finite"):
        from_file(tmp_path / "nan.npy")


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code of the file was run",))

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError):
        from_file(tmp_path / "bomb.npy")


@given(h=st.integers(3, 11), w=st.integers(3, 11), k=st.integers(1, 3), c=st.integers(1, 3))
def test_patches_against_numpy_windows(h, w, k, c):
    x = np.arange(2 * c * h * w, dtype=float).reshape(2, c, h, w)
    view = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::k, ::k]  # n c i j a b
    assert (
        from_images(torch.from_numpy(x), patch=k).values.tolist()
        == view.transpose(0, 2, 3, 1, 4, 5).ravel().tolist()
    )


def test_transformer_needs_package_and_weights(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install -e .\.\[transformers\]"):
        from_transformer("gpt2")
    calls = []

    def from_pretrained(name, **options):
        calls.append(options)
        return layers([2, 3], torch.float32)

    monkeypatch.setitem(
        sys.modules,
        "transformers",
        SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=from_pretrained)),
    )
    got = from_transformer(str(tmp_path))
    assert (
        torch.equal(got.values, flat(layers([2, 3], torch.float32))) and got.record()["name"] == tmp_path.name
    )
    assert calls == [{"local_files_only": True, "use_safetensors": True}]


def test_real_transformers_never_fetches(monkeypatch):
    pytest.importorskip("transformers")
    import socket

    def refused(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(InputError, match="nothing is downloaded"):
        from_transformer("no-such/model-anywhere")


@pytest.mark.parametrize("freedom", [0.3, 1, 3, 50])
def test_student_by_quantiles(freedom):
    values = from_distribution("student", 40_001, seed=2, freedom=freedom).values.numpy()
    assert stats.kstest(values, stats.t(freedom).cdf).pvalue > 1e-4
    assert f"{freedom:g} degrees" in from_distribution("student", 3, freedom=freedom).name


def test_distributions_do_not_touch_the_global_state():
    state = torch.get_rng_state()
    for name in DISTRIBUTIONS:
        from_distribution(name, 5)
    initialise(build_model("conv"), from_distribution("normal", 5))
    assert torch.equal(torch.get_rng_state(), state)
    for bad in ({"count": 0}, {"freedom": 0.0}, {"freedom": float("nan")}):
        with pytest.raises(InputError):
            from_distribution("student", **bad)


def test_half_precision_has_a_record():
    values = torch.arange(9, dtype=torch.float64) / 8
    marks = {
        Source(values.to(dtype), "list", "x").record()["sha256"]
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    }
    assert len(marks) == 1
