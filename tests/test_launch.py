"""Jobs of a cluster: what the scripts ask for, what they do when they are told to stop, and that nothing is lost by it.

The cluster is the test: `sbatch`, `scontrol` and `squeue` on PATH write down what they were asked, and the test starts the
scripts with bash, sends the signals, and starts them again where they asked for it.
"""

import dataclasses
import inspect
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfumato import slurm, trainer
from sfumato.cli import main
from sfumato.commands import launch, train
from sfumato.config import Config, Settled, checked
from sfumato.errors import UserError
from sfumato.run import Run

TINY = "--net unet:width=8,mults=(1,),dropout=0.2 --batch 10 --precision float32 --sampling-steps 1"

SBATCH = """#!/bin/bash
cd "${0%/*}" || exit
if [ -e refuses ]; then echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1; fi
printf '%s\\n' "$*" >> submitted
echo "Welcome to the cluster." >&2
echo "$((100 + $(wc -l < submitted)));north"
"""
SCONTROL = """#!/bin/bash
printf '%s\\n' "$*" >> "${0%/*}/asked"
"""
SQUEUE = """#!/bin/bash
cat "${0%/*}/state"
"""

# What stands in for Python in a script: it hands the command to the test, passes TERM on, and ends as the test says.
STAND_IN = """#!{python} -S
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os.kill({pid}, signal.SIGTERM))
with open({folder!r} + "/typed", "w") as file:
    file.write("\\0".join(sys.argv[1:]))
sys.exit(int(open({folder!r} + "/code").read()))
"""

# What stands in for a training that does, at each start, the next thing of a list.
TRAINING = """#!{python} -S
import os, signal, sys
does = {does!r}[int(os.environ["SLURM_RESTART_COUNT"])]
told = []
if does != "die":
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("training", flush=True)
if does in ("save", "finish"):
    signal.sigwait([signal.SIGTERM])
if does == "die":
    signal.pause()
sys.exit({{"save": 130, "finish": 0}}.get(does, does))
"""


@pytest.fixture(autouse=True)
def _no_waiting_for_ever(request):
    """A script that never does what the test waits for fails the test."""

    def enough(number, frame):
        raise AssertionError("The script never did what was waited for.")

    before = signal.signal(signal.SIGALRM, enough)
    signal.alarm(1800 if request.node.get_closest_marker("slow") else 300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of a cluster's commands, on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "scontrol": SCONTROL, "squeue": SQUEUE}.items():
        executable(folder / name, text)
    (folder / "state").write_text("RUNNING\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def typed(command):
    """The exit code of `sfumato COMMAND`."""
    return main(shlex.split(command))


def asked(script):
    """What the #SBATCH lines of a script ask for, as sbatch reads them: up to the first line that is no comment."""
    found = {}
    for line in Path(script).read_text().splitlines():
        if not line.startswith("#"):
            return found
        if line.startswith("#SBATCH"):
            (word,) = shlex.split(line.removeprefix("#SBATCH"))
            name, _, value = word.removeprefix("--").partition("=")
            assert name not in found
            found[name] = value


def command(script):
    """The words of the command that a script runs."""
    (line,) = [line for line in Path(script).read_text().splitlines() if " -m sfumato " in line]
    return shlex.split(line.removesuffix(" &"))


def start(script, restarts=0):
    """A job that begins, as Slurm would begin it."""
    environment = os.environ | {"SLURM_JOB_ID": "101", "SLURM_RESTART_COUNT": str(restarts)}
    return subprocess.Popen(["bash", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def requeued(cluster):
    """Whether the job asked for a place in the queue, once, since the last call."""
    if not (cluster / "asked").exists():
        return False
    assert (cluster / "asked").read_text() == "requeue 101\n"
    (cluster / "asked").unlink()
    return True


def until(job, words):
    """The output of a job up to a line with these words."""
    said = ""
    for line in job.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


# ---- the scripts -----------------------------------------------------------------------------------------------------


def test_what_the_jobs_ask_for(tmp_path, cluster, capsys):
    flags = "--account lab --qos=long --hours 36.5 --cpus 6 --memory 40G --signal-seconds 300 --name night --samples 9"
    assert typed(f"launch --partition gpu train digits --seed 3 --gpus 1 {flags} {TINY} --images 50") == 0
    run = tmp_path / "runs" / "digits-default"
    assert sorted(os.listdir(run)) == ["sample.sbatch", "train.sbatch"]
    common = {"open-mode": "append", "partition": "gpu", "account": "lab", "qos": "long", "nodes": "1", "ntasks": "1"}
    common |= {"gpus": "1", "cpus-per-task": "6", "mem": "40G", "requeue": ""}
    train_log, sample_log = f"{run}/train-%j.log", f"{run}/sample-%j.log"
    train_alone = {"job-name": "night", "output": train_log, "time": "1-12:30:00", "signal": "B:USR1@300"}
    sample_alone = {"job-name": "night-sample", "output": sample_log, "time": "0-01:00:00", "kill-on-invalid-dep": "yes"}
    assert asked(run / "train.sbatch") == common | train_alone
    assert asked(run / "sample.sbatch") == common | sample_alone
    words = ["digits", "--seed", "3", *TINY.split(), "--images", "50"]
    assert command(run / "train.sbatch") == [sys.executable, "-m", "sfumato", "train", *words, "--run", str(run)]
    assert command(run / "sample.sbatch") == [sys.executable, "-m", "sfumato", "sample", str(run), "-n", "9"]
    submitted = (cluster / "submitted").read_text().splitlines()
    assert submitted == [f"--parsable {run}/train.sbatch", f"--parsable --dependency=afterok:101 {run}/sample.sbatch"]
    said = capsys.readouterr().out
    assert f"Job 101 trains; its log: {run}/train-101.log" in said
    assert "Job 102 draws 9 samples when job 101 has finished." in said


def test_what_is_left_to_the_cluster_is_not_in_the_script(tmp_path, cluster):
    assert typed("launch train digits --gpus 0 --hours 0.5 --run r") == 0
    assert not {"partition", "account", "qos", "gpus"} & asked("r/train.sbatch").keys()
    assert asked("r/sample.sbatch")["time"] == asked("r/train.sbatch")["time"] == "0-00:30:00"


def test_the_run_folder_is_the_one_that_train_would_use(tmp_path, cluster):
    png(tmp_path / "my photos" / "a.png")

    def said_first(folder):
        raise KeyboardInterrupt(folder)

    for data, recipe in (("my photos/", "cars"), ("digits", "default"), (".", "default")):
        with pytest.raises(KeyboardInterrupt) as found:
            trainer.train(data, checked({"net": "unet:width=8"}), None, recipe=recipe, say=said_first)
        assert main(["launch", "--print", "train", data, "--recipe", recipe, "--net", "unet:width=8"]) == 0
        assert sorted(os.listdir(str(found.value))) == ["sample.sbatch", "train.sbatch"]


AWKWARD = """it's 50% "of" $HOME #1; a\\b: `x` é"""


def test_awkward_paths_are_quoted(tmp_path, cluster):
    folder = tmp_path / AWKWARD
    folder.mkdir()
    png(folder / "p" / "p1.png")
    os.chdir(folder)
    assert main(["launch", "--setup", "true", "train", "--group", "p", "p", "--run=out", "--images", "5"]) == 0
    for name in ("train", "sample"):
        script = folder / "out" / f"{name}.sbatch"
        assert subprocess.run(["bash", "-n", script], capture_output=True).stderr == b""
        assert asked(script)["output"] == f"{folder}/out/{name}-%j.log".replace("50%", "50%%")
    words = ["train", "--group", "p", f"{folder}/p", "--images", "5", "--run", f"{folder}/out"]
    assert command("out/train.sbatch")[3:] == words
    stand_in = executable(tmp_path / "echo", "#!/bin/bash\nprintf '%s\\0' \"$@\"\n")
    text = Path("out/train.sbatch").read_text().replace(sys.executable, str(stand_in))
    Path("out/train.sbatch").write_text(text)
    said = start("out/train.sbatch").communicate()[0]
    assert said.rpartition("\n")[2] == "\0".join(["-m", "sfumato", *words, ""])  # as bash reads them


def png(path):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)


def test_data_is_absolute_only_where_it_is_a_path(tmp_path):
    png(tmp_path / "set" / "a.png")
    assert launch.absolute("set") == launch.absolute("./set/") == str(tmp_path / "set")
    assert launch.absolute("set?image=photo") == f"{tmp_path}/set?image=photo"
    (tmp_path / "digits").mkdir()
    for name in ("digits", "fashion-mnist", "hub:owner/name", "hub:owner/name?streaming"):
        assert launch.absolute(name) == name


def test_the_flags_of_launch_are_none_of_train():
    own = set(inspect.get_annotations(launch.Arguments))
    assert own == launch.OWN
    assert not own & {*Config.__struct_fields__, *(field.name for field in dataclasses.fields(train.Arguments))}
    words = shlex.split("--gpus 1 train set --seed=1 --no-print --signal_seconds=9 --gpus-of-mine 3 --name")
    own, others = slurm.apart(words, launch.OWN, {"print", "no_print"})
    assert own == ["--gpus", "1", "--no-print", "--signal_seconds=9", "--name"]
    assert others == ["train", "set", "--seed=1", "--gpus-of-mine", "3"]


def test_the_environment_of_launch_is_that_of_the_job(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("SFUMATO_CACHE", "my cache")
    monkeypatch.setenv("PYTHONPATH", "src:/other")
    monkeypatch.setattr(sys, "executable", "/an environment/bin/python")
    assert main(["launch", "train", "digits", "--run", "r", "--setup", "unset NOTHING; echo $UNHEARD_OF"]) == 0
    for name in ("train", "sample"):
        text = Path(f"r/{name}.sbatch").read_text()
        assert f"\nexport PYTHONPATH={tmp_path}/src:/other\nexport SFUMATO_CACHE='{tmp_path}/my cache'\n" in text
        assert "\n'/an environment/bin/python' -m sfumato " in text
        assert text.index("\nunset NOTHING; echo $UNHEARD_OF\n") < text.index("\nset -u ")


def test_scripts_changed_by_hand_are_kept(tmp_path, cluster, capsys):
    assert typed("launch --print train digits --run r") == 0
    Run.of("r").write_config(Settled())
    before = Path("r/config.json").read_text()
    Path("r/train.sbatch").write_text("mine")
    for hours in (1, 1, 2):
        assert typed(f"launch train digits --run r --hours {hours}") == 0
    said = capsys.readouterr().out
    assert Path("r/train.sbatch.older-1").read_text() == "mine"
    assert asked("r/train.sbatch.older-2")["time"] == "0-01:00:00"
    assert asked("r/train.sbatch")["time"] == "0-02:00:00"
    assert "r/train.sbatch (what it was is now train.sbatch.older-2)\n" in said
    assert Path("r/config.json").read_text() == before
    kept = [f"train.sbatch{end}" for end in ("", ".older-1", ".older-2")]
    assert sorted(os.listdir("r")) == [
        "config.json",
        "sample.sbatch",
        *kept,
    ]  # an hour is enough to draw, so that one is as it was


def test_the_page_shows_the_script_as_it_is_written(monkeypatch):
    for name in ("PYTHONPATH", "SFUMATO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "executable", "/home/ada/env/bin/python")
    run = Path("/home/ada/runs/photos-cars")
    ask = slurm.Ask(run.name, partition="gpu", hours=12)
    words = ["train", "/home/ada/photos", "--recipe", "cars", "--epochs", "200", "--run", str(run)]
    text = slurm.scripts(run, ask, words, [], "module load cuda")[run / "train.sbatch"]
    assert f"\n```bash\n{text}```\n" in (Path(__file__).parents[1] / "docs" / "slurm.md").read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing(tmp_path, cluster):
    assert typed("launch --print train digits --run r --setup 'module load cuda'") == 0
    done = subprocess.run(["shellcheck", "--severity=warning", *Path("r").glob("*.sbatch")], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


# ---- mistakes --------------------------------------------------------------------------------------------------------


def refused(capsys, *arguments):
    """What is said when these arguments are refused: exit code 2, one line."""
    assert main([str(word) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said.strip()


def test_mistakes_are_told_before_anything_is_written(tmp_path, cluster, capsys):
    Run.of("begun").write_config(Settled(batch=16, flip=False, c_noise="log_snr"))  # as a run finds them
    before = sorted(os.listdir(tmp_path))
    same = ("nowhere", "digits --recipe car", "digits --schedule linear:mendet=True", "digits --batch 0", "")
    for words in (*same, "digits --net unett", "digits --images 5 --epochs 3"):
        found = refused(capsys, "launch", "--gpus", 1, "train", *words.split())
        assert found == refused(capsys, "train", *words.split())
    said = refused(capsys, "launch", "train", "digits", "--imges", "5")
    assert said == "There is no flag --imges. Did you mean --images? Type sfumato launch --help for all flags."
    assert "Did you mean --partition?" in refused(capsys, "launch", "train", "digits", "--partitoin", "gpu")
    assert "one GPU, so a job asks for one; found 4" in refused(capsys, "launch", "train", "digits", "--gpus", 4)
    assert "hours does not fit" in refused(capsys, "launch", "train", "digits", "--hours", 0)
    assert "as in 16G, found much" in refused(capsys, "launch", "train", "digits", "--memory", "much")
    assert "CPU" in refused(capsys, "launch", "train", "digits", "--cpus", 0)
    assert "3,600 seconds" in refused(capsys, "launch", "train", "digits", "--hours", 1, "--signal-seconds", 3600)
    assert "samples" in refused(capsys, "launch", "train", "digits", "--samples", 0)
    assert "one line" in refused(capsys, "launch", "train", "digits", "--name", "a\n#SBATCH --uid=0")
    assert "--print" in refused(capsys, "launch", "train", "digits", "--dry-run")
    assert "launch train photos/" in refused(capsys, "launch", "digits")
    assert "found nothing" in refused(capsys, "launch", "--gpus", 1)
    assert "batch was 16, now 8" in refused(capsys, "launch", "train", "digits", "--batch", 8, "--run", "begun")
    assert sorted(os.listdir(tmp_path)) == before
    assert not (cluster / "submitted").exists()


def test_without_sbatch_the_scripts_stay_and_it_says_what_to_type(tmp_path, cluster, capsys, monkeypatch):
    said_by_print = typed("launch --print train digits --run 'my run'") == 0 and capsys.readouterr().out
    assert not (cluster / "submitted").exists()
    by_hand = said_by_print.partition("type: ")[2].strip()
    assert Path("my run/train.sbatch").read_text() in said_by_print
    subprocess.run(["bash", "-c", by_hand], check=True, capture_output=True)
    submitted = (cluster / "submitted").read_text().splitlines()
    assert submitted[0] == f"--parsable {tmp_path}/my run/train.sbatch"
    assert submitted[1].startswith("--dependency=afterok:101")
    (cluster / "sbatch").unlink()
    assert refused(capsys, "launch", "train", "digits", "--run", "my run").endswith(f"On the login node type: {by_hand}")
    assert sorted(os.listdir("my run")) == ["sample.sbatch", "train.sbatch"]


def test_what_sbatch_says_is_passed_on(cluster, capsys):
    (cluster / "refuses").touch()
    said = refused(capsys, "launch", "train", "digits", "--run", "r")
    assert said == "sbatch: error: Batch job submission failed: Invalid account"
    executable(cluster / "sbatch", "#!/bin/bash\nexit 3\n")
    assert "exit code 3" in refused(capsys, "launch", "train", "digits", "--run", "r")


def test_a_time_limit_is_written_as_slurm_writes_it():
    assert slurm.time_limit(90_000) == "1-01:00:00"
    assert slurm.time_limit(59) == "0-00:00:59"
    with pytest.raises(UserError, match="one line"):
        slurm.escaped("a\tb")


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "state", "expected"),
    [
        (["save", 0], "RUNNING", [130, 0]),  # told, saved, put back into the queue, finished
        (["save", "save", 0], "", [130, 130, 0]),  # no answer from squeue
        (["die", 0], "RUNNING", [143, 0]),  # told before there was anything to save
        (["finish"], "RUNNING", [0]),  # told, but the last image had been seen
        (["save"], "COMPLETING", [130]),  # after scancel, or where Slurm itself puts it back
        ([2], "RUNNING", [2]),  # refused
        ([1], "RUNNING", [1]),  # a fault
    ],
)
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_only_a_training_that_was_told_to_stop_starts_again(tmp_path, cluster, monkeypatch, does, state, expected, number):
    monkeypatch.setattr(
        sys, "executable", str(executable(tmp_path / "python", TRAINING.format(python=sys.executable, does=does)))
    )
    (cluster / "state").write_text(f"{state}\n")
    (path, text), _ = slurm.scripts(tmp_path, slurm.Ask("a"), ["train", "photos"], ["sample"]).items()
    slurm.write(path, text)
    codes = []
    while True:
        job = start(path, restarts=len(codes))
        said = until(job, "training")
        assert f"Start {len(codes) + 1} of job 101" in said
        if does[len(codes)] in ("save", "die", "finish"):
            job.send_signal(number)
        said = job.communicate()[0]
        codes.append(job.returncode)
        if not requeued(cluster):
            break
        assert "asking for a place in the queue" in said
    assert codes == expected


def test_a_training_told_by_the_shell_goes_on_bit_for_bit(tmp_path, cluster, monkeypatch):
    """USR1 after a third, TERM after two thirds: the script as it is, and the training that it asks for, on real digits.

    Python takes seconds to start, so a stand-in hands what it is asked for to the test, which trains in this process.
    """
    words = f"train digits {TINY} --images 60 --log-every 20"
    assert typed(f"{words} --run whole") == 0
    for name in ("typed", "code"):
        os.mkfifo(tmp_path / name)
    text = STAND_IN.format(python=sys.executable, pid=os.getpid(), folder=str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(executable(tmp_path / "python", text)))
    assert typed(f"launch {words} --run stopped") == 0
    signals = {20: signal.SIGUSR1, 40: signal.SIGTERM}
    heard, told = socket.socketpair()
    heard.settimeout(60), told.setblocking(False)

    def tell(bar, event, call=train.Bar.__call__):
        """At the images where it is due, the job is sent its signal, and this process waits for the TERM that follows."""
        call(bar, event)
        if event.kind == "step" and event.state.images in signals:
            before = signal.set_wakeup_fd(told.fileno())  # of whichever thread the signal comes to
            job.send_signal(signals.pop(event.state.images))
            assert heard.recv(1) == bytes([signal.SIGTERM])
            signal.set_wakeup_fd(before)

    monkeypatch.setattr(train.Bar, "__call__", tell)
    codes = []
    with heard, told:
        while not codes or requeued(cluster):
            job = start("stopped/train.sbatch", restarts=len(codes))
            typed_words = (tmp_path / "typed").read_text().split("\0")
            assert typed_words[:2] == ["-m", "sfumato"]
            codes.append(main(typed_words[2:]))
            (tmp_path / "code").write_text(str(codes[-1]))
            job.communicate()
            assert job.returncode == codes[-1]
    assert codes == [130, 130, 0]
    same_run("whole", "stopped", 60)


def same_run(one, other, images):
    for part in ("model", "ema", "optimizer"):
        file = f"checkpoints/{images:09d}/{part}.safetensors"
        assert Path(one, file).read_bytes() == Path(other, file).read_bytes(), part
    logs = [[json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()] for run in (one, other)]
    for line in (*logs[0], *logs[1]):
        del line["images_per_second"], line["data_wait"]
    assert logs[0] == logs[1]


def progress(run):
    """The images seen by the last line of a run's log."""
    return max((record["images"] for record in Run(Path(run)).records()), default=0)


@pytest.mark.slow
def test_real_jobs_go_on_bit_for_bit(tmp_path, cluster):
    """The scripts as they are: USR1 in the first start, TERM in the second, then the grid; a refused job ends at once."""
    words = f"train digits {TINY} --images 1500 --log-every 50"
    assert typed(f"launch --samples 4 {words} --run stopped") == 0
    codes, signals = [], [signal.SIGUSR1, signal.SIGTERM]
    while not codes or requeued(cluster):
        job = start("stopped/train.sbatch", restarts=len(codes))
        if signals:
            seen = progress("stopped")
            while progress("stopped") <= seen:  # until it trains
                assert job.poll() is None, job.stdout.read()
                time.sleep(0.02)
            job.send_signal(signals.pop(0))
        said = job.communicate()[0]
        codes.append(job.returncode)
    assert codes == [130, 130, 0], said
    assert "Resuming after" in said
    assert typed(f"{words} --run whole") == 0
    same_run("whole", "stopped", 1500)
    job = start("stopped/sample.sbatch")
    assert "4 samples" in job.communicate()[0]
    assert job.returncode == 0
    assert Path("stopped/out/s0-grid.png").exists()
    text = Path("stopped/train.sbatch").read_text()
    Path("stopped/train.sbatch").write_text(text.replace("--batch 10", "--batch 20"))
    job = start("stopped/train.sbatch")
    assert "batch was 10, now 20" in job.communicate()[0]
    assert job.returncode == 2
    assert not requeued(cluster)
