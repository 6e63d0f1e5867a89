"""Sweeps under bad conditions: a cluster, kill -9 at random moments, two at once, failing rows, idle factors.

The long form kills more often and loses a worker of a cluster: pytest --long tests/test_study_sweep.py
"""

import inspect
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.lab.cli import main
from spectral_diffusion.study.factors import Factors, NoEffect, check_factors, rows_of
from spectral_diffusion.study.jobs import claim, clean
from spectral_diffusion.study.ledger import load_ledger
from spectral_diffusion.study.rows import SweepFailed, run_rows, sweep_table
from spectral_diffusion.study.studies import read_study
from spectral_diffusion.study.sweep import run_sweep

ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

HEAD = "lr = 0.1\nsteps = 3\nseed = 0\ngauss = 'a'\noverrides = {}\nout = ''"
BODY = """
import json, os, time
from pathlib import Path
loss = (1 - lr)**steps + 0.01*seed + 0.1*overrides.get("model.base", 1)
if globals().get("probe"):
    probe = {"fingerprint": str([lr, steps, seed, sorted(overrides.items())]), "loss": loss}
    Path(out, "probe.json").write_text(json.dumps(probe))
    raise SystemExit
with open("started.txt", "a") as file: file.write(f"{steps}\\n")
if steps == 9 and not Path("mended.txt").exists(): raise ValueError(f"diverged after {steps} steps")
if steps == 8: os._exit(3)
if steps == 7 and not Path("mended.txt").exists(): time.sleep(1_200)
Path(out, "metrics.json").write_text(json.dumps({"loss": loss}))
"""


@pytest.fixture
def page(tmp_path):
    "A notebook with parameters, in a folder of its own that is its working folder."
    return write_page(tmp_path / "page")


def write_page(folder, head=HEAD, body=BODY):
    folder.mkdir(exist_ok=True)
    cells = [
        nbformat.v4.new_code_cell(head, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(body),
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        ),
        folder / "descent.ipynb",
    )
    return folder / "descent.ipynb"


def work_of(log, seconds=0.0):
    """A stand-in for papermill that notes each execution; nested, so that it travels to other processes by
    value."""

    def work(parameters, out):
        import json
        import os
        import time

        line = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, f"{parameters['steps']}\n".encode())
        os.close(line)
        time.sleep(seconds)
        if parameters["steps"] < 0:
            raise ValueError("negative")
        with open(os.path.join(out, "metrics.json"), "w") as file:
            json.dump({"loss": 1 / parameters["steps"]}, file)

    return work


def counts(log):
    "Executions of each row."
    return Counter(int(line) for line in Path(log).read_text().split()) if Path(log).exists() else Counter()


ROWS = [{"steps": n} for n in range(1, 13)]
SERVER = (
    inspect.getsource(work_of)
    + """
import json, os, sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
from spectral_diffusion.study.rows import run_rows
with TemporaryDirectory() as warm:
    run_rows(warm, [{"steps": 1}], work_of(f"{warm}/log"), {}, engine="sequential")
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    os.setpgid(child, child)  # by both, so that the group is there whoever is first
    if child: print(child, flush=True); continue
    while order["go"] and not Path(order["go"]).exists(): time.sleep(0.005)
    rows = order["rows"][::-1] if order["engine"] == "loky" else order["rows"]
    sweep = run_rows(order["root"], rows, work_of(order["log"], 0.05), {}, engine=order["engine"], jobs=2)
    Path(order["ran"]).write_text(json.dumps(sweep.ran))
    os._exit(0)
"""
)


@pytest.fixture(scope="module")
def drive():
    """Starts sweeps, each in a process group of its own: forks of one process that has everything imported,
    so that starting takes no time."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask(**order):
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    def start(root, log, engine, rows=ROWS, go=None):
        pid = ask(
            root=str(root),
            log=str(log),
            engine=engine,
            go=go and str(go),
            rows=rows,
            ran=f"{log}.{engine}.json",
        )
        return pid, lambda: ask(wait=pid), Path(f"{log}.{engine}.json")

    yield start
    server.stdin.close()
    server.wait()


def finished(root):
    return {json.loads(p.read_text())["parameters"]["steps"] for p in root.glob("[!.]*/row.json")}


def test_a_record_made_elsewhere_does_not_say_where(tmp_path, monkeypatch):
    from spectral_diffusion.study import benches

    def run(notebook, parameters, out, **_):
        source = "\n".join(f'{k} = "{parameters[k]}"' for k in ("results", "out"))
        nb = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source)], metadata={"papermill": {"parameters": parameters}}
        )
        nbformat.write(nb, out)
        (out.parent / "config.yaml").write_text("bench: b01_fft\n")
        (out.parent / "system.json").write_text("{}")

    monkeypatch.setattr(benches, "run_notebook", run)
    text = (benches.run_bench("b01_fft", root=tmp_path) / "notebook.ipynb").read_text()
    assert tmp_path.name not in text and '"results": "results"' in text and "results/b01_fft/.partial" in text


# --- the same ledger, whoever computes it


def test_dask_gives_the_ledger_of_sequential(page, tmp_path):
    """A scheduler and two worker processes on this machine, addressed as a cluster elsewhere would be; stand-
    ins and a real execution."""
    distributed = pytest.importorskip("distributed")
    here = {"cwd": page.parent}
    for root in (tmp_path / "one", tmp_path / "two"):
        root.mkdir()
    rows = [{"steps": n} for n in (3, -1, 2, 5, 4)]
    with distributed.LocalCluster(
        processes=True, n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        for root, options in (
            (tmp_path / "one", {"engine": "sequential"}),
            (tmp_path / "two", {"engine": "dask", "address": cluster.scheduler_address}),
        ):
            sweep = run_sweep(page, rows, root=root, run=work_of(root / "log"), strict=False, **options)
            assert counts(root / "log") == Counter(r["steps"] for r in rows)
            assert [f.parameters for f in sweep.failed] == [{"steps": -1}]
            done = run_sweep(
                page, [{"lr": 0.3, "overrides": {"model.base": 2}}], root=root, **here, **options
            )
            np.testing.assert_allclose(done.table["metrics.loss"], [0.7**3 + 0.2], rtol=1e-12)
    assert (tmp_path / "one" / "sweep.csv").read_bytes() == (tmp_path / "two" / "sweep.csv").read_bytes()
    assert len(pd.read_csv(tmp_path / "two" / "sweep.csv")) == 6


@pytest.mark.long
def test_a_row_that_takes_its_dask_worker_with_it(tmp_path):
    """Its worker is started anew and lost again; then the row has failed, and the others are done. With
    joblib's backend this waited for ever."""
    distributed = pytest.importorskip("distributed")
    from drills.sweeps import harm

    rows, work = (
        [{"x": x, **({"how": "killed"} if x == 2 else {})} for x in range(1, 6)],
        harm(str(tmp_path / "log"), str(tmp_path / "mended")),
    )
    with distributed.LocalCluster(
        processes=True, n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        options = {"engine": "dask", "address": cluster.scheduler_address, "strict": False}
        first = run_rows(tmp_path / "sweep", rows, work, {}, jobs=1, **options)
        assert (
            len(first.ran) == len(rows)
            and [f.parameters for f in first.failed] == [rows[1]]
            and "killed twice" in first.failed[0].reason
        )
        (tmp_path / "mended").touch()
        assert not run_rows(tmp_path / "sweep", rows, work, {}, retry_failed=True, **options).failed


@pytest.mark.long
def test_ray_gives_the_ledger_of_sequential(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for engine in ("sequential", "ray"):
            sweep = run_rows(
                tmp_path / engine,
                [{"steps": n} for n in (3, -1, 2)],
                work_of(tmp_path / f"{engine}.log"),
                {},
                engine=engine,
                jobs=2,
                strict=False,
            )
            assert len(sweep.ran) == 3 and [f.parameters for f in sweep.failed] == [{"steps": -1}]
        with pytest.raises(InputError, match="do not fit"):
            run_rows(
                tmp_path / "many", [{"steps": 1}], work_of(tmp_path / "many.log"), {}, engine="ray", jobs=64
            )
    finally:
        ray.shutdown()
    assert (tmp_path / "sequential" / "sweep.csv").read_bytes() == (
        tmp_path / "ray" / "sweep.csv"
    ).read_bytes()


def test_no_scheduler_and_no_package(page, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="needs the address"):
        run_sweep(page, [{}], "dask", root=tmp_path / "a")
    for engine, module in (("dask", "distributed"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=rf"pip install -e .\.\[{engine}\]"):
            run_sweep(page, [{}], engine, address="tcp://127.0.0.1:9", root=tmp_path / engine)


# --- accidents


def test_killed_at_random_moments(drive, tmp_path, long):
    """After each SIGKILL what was finished stays finished and is not run again; only rows in flight are lost;
    the last ledger is that of a quiet sweep."""
    kills = 20 if long else 3
    root, log, draw = tmp_path / "sweep", tmp_path / "log", random.Random(4)
    rows = [{"steps": n} for n in range(1, 12 * kills + 1)]
    run_rows(tmp_path / "quiet", rows, work_of(tmp_path / "quiet.log"), {}, engine="sequential")
    kept, again, killed = {}, [], 0
    for i in range(kills):
        engine, least = (
            ("loky", 2) if i % 5 == 1 else ("sequential", draw.randint(0, 3))
        )  # executions before it may be killed
        start, (pid, wait, _) = sum(counts(log).values()), drive(root, log, engine, rows)
        deadline = time.monotonic() + 600
        while sum(counts(log).values()) < start + least and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.2))
        os.killpg(pid, signal.SIGKILL)  # the sweep, its workers, their children
        killed += wait() == -signal.SIGKILL
        now = counts(log)
        for steps, n in kept.items():
            assert now[steps] == n, f"row {steps} was finished and ran again"
        kept |= {steps: now[steps] for steps in finished(root)}
        again.append(sum(now.values()))
    assert killed == kills and 0 < len(kept) < len(rows), "nothing was running when it was killed"
    _, wait, _ = drive(root, log, "sequential", rows)
    assert wait() == 0
    now = counts(log)
    for steps, n in kept.items():
        assert now[steps] == n
    assert sum(now.values()) <= len(rows) + 2 * kills, again  # two rows in flight at each kill
    assert (root / "sweep.csv").read_bytes() == (tmp_path / "quiet" / "sweep.csv").read_bytes()
    assert not list(root.glob(".partial*"))
    print(
        f"{killed} of {kills} killed, executions after each {again}, {sum(now.values())} in all for"
        f" {len(rows)} rows"
    )


def test_killed_inside_a_notebook(page, tmp_path):
    """The kernel of a killed sweep is an orphan for a second; the row starts anew in another folder and ends
    once."""
    root = tmp_path / "sweep"
    code = (
        "from spectral_diffusion.study.sweep import run_sweep;"
        f" run_sweep({str(page)!r}, [{{'steps': 7}}], 'sequential', root={str(root)!r},"
        f" cwd={str(page.parent)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=ENV, start_new_session=True)
    deadline = time.monotonic() + 600
    while not (page.parent / "started.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    partial = list(root.glob(".partial-*"))
    assert len(partial) == 1 and clean(root) == []  # alive: nobody takes its folder
    process.send_signal(signal.SIGKILL)
    process.wait()
    (page.parent / "mended.txt").touch()
    sweep = run_sweep(page, [{"steps": 7}], "sequential", root=root, cwd=page.parent)
    assert len(sweep.ran) == 1 and not list(root.glob(".partial-*")) and not partial[0].exists()
    assert counts(page.parent / "started.txt") == {7: 2}
    assert load_ledger(tmp_path).steps.tolist() == [7]  # a row is a record like any other


def test_two_sweeps_on_one_folder(drive, tmp_path):
    """Started at the same moment, from both ends of the table: each row once, by one of them, and both wait
    for the whole."""
    root, log, go = tmp_path / "sweep", tmp_path / "log", tmp_path / "go"
    both = [drive(root, log, engine, go=go) for engine in ("loky", "sequential")]
    go.touch()
    assert [wait() for _, wait, _ in both] == [0, 0]
    ran = [json.loads(file.read_text()) for _, _, file in both]
    assert counts(log) == Counter(r["steps"] for r in ROWS)
    assert len(ran[0]) + len(ran[1]) == len(ROWS) and not set(ran[0]) & set(ran[1])
    run_rows(tmp_path / "quiet", ROWS, work_of(tmp_path / "quiet.log"), {}, engine="sequential")
    assert (root / "sweep.csv").read_bytes() == (tmp_path / "quiet" / "sweep.csv").read_bytes()


def test_a_row_of_another_sweep_is_waited_for(page, tmp_path):
    "A row that is claimed elsewhere is taken over when its owner gives up, and only then."
    import threading

    root, log = tmp_path / "sweep", tmp_path / "log"
    name = run_sweep(page, [{"steps": 1}], "sequential", root=tmp_path / "x", run=work_of(log)).names[0]
    log.unlink()
    held, seen = threading.Event(), []

    def owner():
        with claim(root, name):
            held.set()
            until = time.monotonic() + 600
            while not counts(log) and time.monotonic() < until:
                time.sleep(0.01)
            seen.append(dict(counts(log)))

    thread = threading.Thread(target=owner)
    thread.start()
    held.wait()
    sweep = run_sweep(page, [{"steps": 1}, {"steps": 2}], "sequential", root=root, run=work_of(log))
    thread.join()
    assert seen == [{2: 1}] and counts(log) == {1: 1, 2: 1} and len(sweep.ran) == 2


# --- rows that fail


def test_failing_rows_through_the_command_line(page, tmp_path, monkeypatch, capsys):
    """The others finish; the failed ones keep their executed notebook, are listed, and run again only when
    asked."""
    monkeypatch.chdir(page.parent)
    (tmp_path / "factors.yaml").write_text("factors: {lr: [0.1, 0.3], steps: [2, 9]}\n")
    root = tmp_path / "sweep"
    words = [
        "sweep",
        str(page),
        "--array",
        "L4",
        "--factors",
        str(tmp_path / "factors.yaml"),
        "--engine",
        "loky",
        "--jobs",
        "2",
        "--root",
        str(root),
    ]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert (
        "2 of 4 rows failed" in said
        and said.count("ValueError: diverged after 9 steps") == 2
        and "Traceback" not in said
        and "not checked" in said
    )
    kept = [nbformat.read(p, 4) for p in root.glob("failed/*/notebook.ipynb")]
    errors = [o for nb in kept for c in nb.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert len(kept) == 2 and all("diverged" in "".join(e.traceback) for e in errors) and len(errors) == 2
    assert (
        main(["taguchi", str(root), "--metric", "loss"]) == 2
        and "2 of 4 rows have no result" in capsys.readouterr().err
    )
    started = counts(page.parent / "started.txt")
    assert main(words) == 1 and counts(page.parent / "started.txt") == started
    (page.parent / "mended.txt").touch()
    assert main([*words, "--retry-failed"]) == 0
    assert counts(page.parent / "started.txt") == started + Counter({9: 2}) and not list(
        root.glob("failed/*")
    )
    assert "4 rows done, 2 of them now" in capsys.readouterr().out
    assert sweep_table(root).status.tolist() == ["done"] * 4
    design, y, _ = read_study(root, "loss")
    np.testing.assert_allclose(
        y[:, 0], [(1 - r.lr) ** r.steps + 0.1 for r in design.itertuples()], rtol=1e-12
    )


def test_a_kernel_that_dies_and_one_that_hangs(page, tmp_path):
    options = {"root": tmp_path / "sweep", "cwd": page.parent}
    with pytest.raises(SweepFailed, match="1 of 1 row") as dead:
        run_sweep(page, [{"steps": 8}], "sequential", limit=1_200.0, **options)
    with pytest.raises(SweepFailed, match="1 of 1 row") as late:
        run_sweep(page, [{"steps": 7}], "sequential", limit=4.0, **options)
    assert "its kernel died" in dead.value.failed[0].reason
    assert "stopped at its limit of 4 s" in late.value.failed[0].reason
    assert all((f.path / "notebook.ipynb").is_file() for f in (*dead.value.failed, *late.value.failed))


def test_two_retries_at_once_retry_once(page, tmp_path):
    "The second of two sweeps that retry a row sees that it has failed once more since, and leaves it."
    from spectral_diffusion.study import rows as module

    root, log = tmp_path / "sweep", tmp_path / "log"
    run_sweep(page, [{"steps": -1}], "sequential", root=root, run=work_of(log), strict=False)
    real, calls = module.each, []

    def each(*args, **options):
        if not calls:  # between this sweep's look at the failures and its first row, another one does it all
            calls.append(1)
            run_sweep(
                page,
                [{"steps": -1}],
                "sequential",
                root=root,
                run=work_of(log),
                strict=False,
                retry_failed=True,
            )
        yield from real(*args, **options)

    module.each = each
    try:
        assert (
            run_sweep(
                page,
                [{"steps": -1}],
                "sequential",
                root=root,
                run=work_of(log),
                strict=False,
                retry_failed=True,
            ).ran
            == []
        )
    finally:
        module.each = real
    assert counts(log) == {-1: 2}


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "ended without metrics.json"),
        ("{", "damaged"),
        ("[1]", "must hold a mapping"),
        ('{"loss": NaN}', "finite"),
        ('{"loss": 1e999}', "finite"),
    ],
)
def test_a_broken_answer_is_a_failed_row(page, tmp_path, text, says):
    def work(parameters, out):
        text is not None and Path(out, "metrics.json").write_text(text)

    sweep = run_sweep(page, [{"steps": 1}], "sequential", root=tmp_path / "sweep", run=work, strict=False)
    assert says in sweep.failed[0].reason and sweep.table.status.tolist() == ["failed"]


def test_an_edited_page_is_another_sweep(page, tmp_path):
    root, log = tmp_path / "sweep", tmp_path / "log"
    first = run_sweep(page, [{"steps": 1}], "sequential", root=root, run=work_of(log))
    second = run_sweep(
        write_page(page.parent, body=BODY + "\n1"), [{"steps": 1}], "sequential", root=root, run=work_of(log)
    )
    assert (
        first.names != second.names
        and len(sweep_table(root)) == 2
        and sweep_table(root).source.nunique() == 2
    )


# --- factors that do nothing


def model_run(setting):
    "A run that reads nested keys and takes any other without a word."
    config = {"lr": 1e-3, "model.base": 16, **setting}
    return {"fingerprint": str(sorted(config.items())), "loss": 1 / config["model.base"] - config["lr"]}


def test_a_key_at_the_wrong_level_is_named():
    assert check_factors(model_run, {"lr": [1e-3, 3e-3], "model.base": [16, 32]}).loss.nunique() == 3
    with pytest.raises(NoEffect, match="base does nothing") as error:
        check_factors(model_run, {"lr": [1e-3, 3e-3], "base": [16, 32]})
    assert "lr does" not in str(error.value)


def test_dummy_is_a_negative_control():
    levels = {"lr": [1e-3, 3e-3], "gauss": ["a", "b"]}
    check_factors(model_run, levels, dummy=("gauss",))
    with pytest.raises(NoEffect, match="lr is a dummy"):
        check_factors(model_run, levels, dummy=("gauss", "lr"))
    with pytest.raises(NoEffect, match="gauss does nothing"):
        check_factors(model_run, levels)
    with pytest.raises(InputError, match="did you mean 'gauss'"):
        check_factors(model_run, levels, dummy=("gaus",))


def test_model_counts_where_the_loss_does_not():
    def probe(setting):
        return {"fingerprint": str(setting), "loss": 1.0, "model": str(setting["width"])}

    check_factors(probe, {"width": [1, 2]})
    with pytest.raises(NoEffect, match="depth does nothing"):
        check_factors(probe, {"width": [1, 2], "depth": [1, 2]})


def test_notebook_is_probed_before_anything_runs(tmp_path, monkeypatch, capsys):
    """Through the command line: a key that the page does not read stops the sweep with exit code 2, and no
    row has run."""
    page = write_page(tmp_path / "page", head=HEAD + "\nprobe = False")
    monkeypatch.chdir(page.parent)
    (tmp_path / "factors.yaml").write_text("factors: {model.base: [1, 2], base.model: [1, 2]}\n")
    words = [
        "sweep",
        str(page),
        "--factors",
        str(tmp_path / "factors.yaml"),
        "--engine",
        "sequential",
        "--root",
        str(tmp_path / "sweep"),
    ]
    (page.parent / "descent.ipynb").write_text(
        page.read_text().replace("sorted(overrides.items())", "overrides.get('model.base')")
    )
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "base.model does nothing" in said and "model.base does" not in said.replace("base.model does", "")
    assert not (page.parent / "started.txt").exists() and not (tmp_path / "sweep").exists()


# --- analysis


def test_taguchi_on_a_sweep(page, tmp_path, capsys):
    "Sums of squares of a sweep with a dummy and three seeds, against statsmodels."
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    from spectral_diffusion.study.studies import run_study

    rng = np.random.default_rng(0)
    noise = {seed: rng.normal(0, 0.02) for seed in range(3)}

    def work(parameters, out):
        p = {"lr": 0.1, "steps": 3, "seed": 0, **parameters}
        loss = p["lr"] + 0.05 * p["steps"] + noise[p["seed"]] * (1 + p["lr"])
        Path(out, "metrics.json").write_text(json.dumps({"loss": loss, "deep": {"er": -loss}}))

    factors = Factors(
        factors={"lr": [0.1, 0.3], "steps": [2, 4], "gauss": ["a", "b"]},
        dummy=("gauss",),
        avoid=(("lr", "steps"),),
        noise={"seed": [0, 1, 2]},
    )
    root = tmp_path / "sweep"
    run_study(page, factors, "L8", "sequential", root=root, run=work)
    assert main(["taguchi", str(root), "--metric", "loss", "--goal", "smaller", "--response", "raw"]) == 0
    said = capsys.readouterr().out
    out = root / "taguchi-loss"
    assert {p.name for p in out.iterdir() if not p.name.startswith("interaction_")} == {
        "ranks.csv",
        "distributions.png",
        "effects.csv",
        "anova.csv",
        "main_effects.png",
        "contribution.png",
        "sentences.txt",
    }
    assert "Best by the model: lr = 0.1, steps = 2" in said and "lack of fit" in said
    ours = pd.read_csv(out / "anova.csv", index_col="term")
    table = sweep_table(root)
    frame = pd.DataFrame(
        {
            "y": table["metrics.loss"],
            "a": table["parameters.lr"],
            "b": table["parameters.steps"],
            "c": table["parameters.gauss"],
        }
    )
    theirs = anova_lm(ols("y ~ C(a) + C(b) + C(c)", frame).fit(), typ=2)
    np.testing.assert_allclose(
        ours.loc[["lr", "steps", "gauss"], "sum_sq"], theirs["sum_sq"].iloc[:3], atol=1e-12
    )
    before = (out / "anova.csv").read_bytes()
    assert (
        main(
            [
                "taguchi",
                str(root),
                "--metric",
                "deep.er",
                "--goal",
                "larger",
                "--out",
                str(tmp_path / "other"),
            ]
        )
        == 2
    )  # negative values have no ratio
    assert (
        "needs positive responses" in capsys.readouterr().err and (out / "anova.csv").read_bytes() == before
    )
    for words, says in (
        (["--metric", "los"], "did you mean 'loss'?"),
        (["--metric", "loss", "--goal", "smalle"], "did you mean 'smaller'?"),
        (["--metric", "loss", "--response", "snr"], "unknown response"),
    ):
        assert main(["taguchi", str(root), *words]) == 2 and says in capsys.readouterr().err


# --- bad input: one sentence, before any work


@pytest.mark.parametrize(
    "rows, options, says",
    [
        ([{"stepz": 1}], {}, "did you mean 'steps'"),
        ([{"steps": 1}, {"steps": 1}], {}, "rows 0 and 1 are the same"),
        ([{"steps": np.int64(1)}], {}, "plain data"),
        ([{"steps": object()}], {}, "plain data"),
        ([{"lr": float("nan")}], {}, "finite"),
        (pd.DataFrame({"lr": [0.1, None]}), {}, "finite"),
        ([{"out": "x"}], {}, "sets itself"),
        ([], {}, "at least one row"),
        ([{"steps": 1}], {"engine": "lok"}, "did you mean 'loky'"),
        ([{"steps": 1}], {"engine": "dask"}, "needs the address"),
        ([{"steps": 1}], {"address": "tcp://x:1"}, "takes no address"),
        ([{"steps": 1}], {"jobs": 0}, "jobs must be"),
        ([{"steps": 1}], {"limit": -1}, "limit is a number"),
        ([{"overrides.x": 1}, {"overrides": {"x": 1}}], {}, "rows 0 and 1 are the same"),
    ],
)
def test_bad_rows_raise_before_any_work(page, tmp_path, rows, options, says):
    with pytest.raises(InputError, match=says):
        run_sweep(page, rows, root=tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


def test_bad_pages(tmp_path):
    with pytest.raises(InputError, match="not found"):
        run_sweep(tmp_path / "no.ipynb", [{}])
    with pytest.raises(InputError, match="needs the parameter 'out'"):
        run_sweep(write_page(tmp_path / "page", head="steps = 1"), [{}], root=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    "text, words, says",
    [
        ("factors: {stepz: [1, 2], lr: [1, 2]}", (), "did you mean 'steps'"),
        ("factor: {steps: [1, 2]}", (), "did you mean 'factors'"),
        ("factors: {steps: [1]}", (), "at least 2 different levels"),
        ("factors: {lr: [1, 2], steps: [1, 2]}", ("--array", "L5"), "L4"),
        ("factors: {lr: [1, 2], steps: [1, 2]}", ("--engine", "loki"), "did you mean 'loky'"),
        ("factors: {lr: [1, 2], steps: [1, 2]}", ("--array", "L9"), "no place found"),
        ("factors: {lr: [1, 2], steps: [1, 2]}", ("--base", "lr"), "key=value"),
        ("factors: [", (), "not valid YAML"),
    ],
)
def test_bad_factors_are_one_line_and_exit_code_2(page, tmp_path, capsys, text, words, says):
    (tmp_path / "factors.yaml").write_text(text)
    assert (
        main(
            [
                "sweep",
                str(page),
                "--factors",
                str(tmp_path / "factors.yaml"),
                "--root",
                str(tmp_path / "sweep"),
                *words,
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said
    assert not [p for p in (tmp_path / "sweep").rglob("*") if p.is_file()]


def test_rows_of_an_array():
    plan = rows_of("L18", {"a": [1, 2], "b": list("xyz"), "c": [0.1, 0.2, 0.3]})
    assert len(plan.rows) == 18 and plan.array.startswith("L18") and plan.outer == 1
    assert all(
        Counter(plan.design[f]).most_common()[-1][1] == 18 // len(set(plan.design[f])) for f in plan.design
    )
    plan = rows_of(
        None,
        Factors(
            factors={"a": [True, False], "b": [None, [1, 2]]},
            noise={"preset": ["cpu"], "seed": [0, 1]},
            replicates=2,
        ),
    )
    assert len(plan.rows) == 16 and plan.rows[0] == {
        "a": True,
        "b": None,
        "preset": "cpu",
        "seed": 0,
        "replicate": 0,
    }
