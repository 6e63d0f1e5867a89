"Checkpoints against torch's own and against safetensors read by hand."

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.learn.checkpoint import SIDECAR, TENSORS, load, save
from spectral_diffusion.learn.restore import restore


def trained(kind=torch.optim.AdamW, **options):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.LazyLinear(2)
    )
    net(torch.zeros(2, 2, 5, 5))
    optimizer = kind(
        [
            {"params": net[0].parameters(), "lr": 0.1},
            {"params": [*net[1].parameters(), *net[3].parameters()]},
        ],
        **options,
    )
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 2, 5, 5)).square().mean().backward()
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize(
    "kind, options",
    [
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True, "fused": True}),
        (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        (torch.optim.SGD, {"lr": 0.01}),
        (torch.optim.RMSprop, {"lr": 0.01}),
    ],
)
def test_optimizer_state_equals_torchs_own(tmp_path, kind, options):
    net, optimizer = trained(kind, **options)
    saved = load(save(tmp_path / "a", model=net, optimizer=optimizer))
    other, fresh = trained(kind, **options)
    restore(saved, model=other, optimizer=fresh)
    expected, got = optimizer.state_dict(), fresh.state_dict()
    assert expected["param_groups"] == got["param_groups"]
    for i, memory in expected["state"].items():
        for key, value in memory.items():
            assert (
                torch.equal(value, got["state"][i][key])
                if isinstance(value, torch.Tensor)
                else value == got["state"][i][key]
            )
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())


def test_tensors_are_plain_safetensors(tmp_path):
    net, optimizer = trained(lr=0.01)
    save(tmp_path / "a", model=net, optimizer=optimizer, ema=net)
    with safe_open(tmp_path / "a" / TENSORS, "pt") as f:
        assert torch.equal(f.get_tensor("model/0.weight"), net[0].weight)
        assert torch.equal(f.get_tensor("optimizer/0/exp_avg"), optimizer.state[net[0].weight]["exp_avg"])
        names = f.keys()  # the file itself cannot be walked through
        assert {k.split("/")[0] for k in names} == {"model", "ema", "optimizer"}
    assert b"pickle" not in (tmp_path / "a" / TENSORS).read_bytes()[:2000]


@given(
    meta=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**60), 2**60)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=8),
            lambda x: st.lists(x, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_meta_round_trip(tmp_path_factory, meta):
    path = tmp_path_factory.mktemp("meta") / "c"
    assert load(save(path, model={"w": torch.ones(2)}, meta=meta)).meta == meta


def test_a_forged_pair_is_still_read_strictly(tmp_path):
    "A sidecar that was sealed again over other tensors must name the group that does not belong."
    from safetensors.torch import save_file

    from spectral_diffusion.core.files import sha256
    from spectral_diffusion.learn.checkpoint import _seal

    path = save(tmp_path / "c", model={"w": torch.ones(2)})
    record = json.loads((path / SIDECAR).read_text())
    for write, message in (
        (lambda: save_file({"foreign/w": torch.ones(1)}, path / TENSORS), "foreign/w"),
        (lambda: (path / TENSORS).write_bytes(b"x" * 40), "not a safetensors file"),
    ):
        write()
        record["sha256"] = sha256(path / TENSORS)
        (path / SIDECAR).write_text(json.dumps(record | {"seal": _seal(record)}))
        with pytest.raises(InputError, match=message):
            load(path)


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    import spectral_diffusion.learn.checkpoint as module

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "sha256", fail)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "c", model={"w": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_two_writers_do_not_mix(tmp_path):
    "Of several writers of one name one wins whole; the others raise."
    outcomes = []

    def write(i):
        try:
            outcomes.append(save(tmp_path / "c", model={"w": torch.full((1000,), float(i))}))
        except (InputError, OSError):
            outcomes.append(None)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(outcomes) == 4 and sum(o is not None for o in outcomes) >= 1
    assert len(load(tmp_path / "c").model["w"].unique()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_on_the_disk_before_its_name_and_before_the_older_goes(tmp_path, monkeypatch):
    """What a computer without power finds: a name has its bytes behind it, and one checkpoint is there at any
    time."""
    from spectral_diffusion.learn import checkpoint
    from spectral_diffusion.learn.loop import train
    from spectral_diffusion.noise.denoiser import wrap
    from spectral_diffusion.noise.process import Process

    log, sync, name, gone = [], os.fsync, os.replace, checkpoint.remove

    def seen_sync(handle):
        log.append(("disk", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        sync(handle)

    def seen_name(old, new):
        log.append(("name", Path(new).name))
        name(old, new)

    def seen_gone(path):
        log.append(("gone", Path(path).name))
        gone(path)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(os, "replace", seen_name)
    monkeypatch.setattr(checkpoint, "remove", seen_gone)

    class Net(torch.nn.Conv2d):
        def forward(self, x, t):
            return super().forward(x)

    for _ in train(
        wrap(Net(1, 1, 1), Process("cosine")),
        lambda step: torch.zeros(2, 1, 4, 4),
        steps=2,
        batch=2,
        checkpoints=tmp_path / "last",
        checkpoint_every=1,
    ):
        pass
    for old, new in ((None, "step-00000001"), ("step-00000001", "step-00000002")):
        named = log.index(("name", new))
        before, after = log[:named][-3:], log[named + 1 :]
        assert [n.startswith(".partial") or n in (TENSORS, SIDECAR) for k, n in before if k == "disk"] == [
            True
        ] * 3
        assert after[0] == ("disk", "last") and (old is None or log.index(("gone", old)) > named + 1)
