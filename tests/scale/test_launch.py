"""Who has started a process, by the variables that torchrun and srun set."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ssrseg.errors import ConfigError
from ssrseg.launch import Place, meeting_point, place
from ssrseg.processes import Group

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "41", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    "SLURM_JOB_NODELIST": "gpu[07-08,11]",
}  # fmt: skip
ALL = {*TORCHRUN, *SRUN, "SLURM_NODELIST"}


def given(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TORCHRUN)
    assert place() == Place(3, 4, 1)
    assert meeting_point() == "env://"
    given(monkeypatch, SRUN | TORCHRUN)  # torchrun on every machine, started by srun
    assert place() == Place(3, 4, 1)


def test_srun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$3" = "gpu[07-08,11]" ] && printf "gpu07\\ngpu08\\ngpu11\\n"\n'
    )
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    given(monkeypatch, SRUN)
    assert place() == Place(5, 8, 1, sees_one_gpu=True)
    assert meeting_point() == "tcp://gpu07:20041"
    given(monkeypatch, SRUN | {"SLURM_STEP_ID": "2"})
    assert meeting_point() == f"tcp://gpu07:{20041 + 2 * 997}"  # another step beside it
    given(monkeypatch, SRUN | {"SLURM_STEP_NODELIST": "a1,a2"})
    assert meeting_point() == "tcp://a1:20041"
    given(monkeypatch, SRUN | {"MASTER_ADDR": "here", "MASTER_PORT": "7"})
    assert meeting_point() == "env://"


def test_a_list_of_machines_that_nobody_unfolds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    given(monkeypatch, SRUN)
    with pytest.raises(ConfigError, match=r"gpu\[07-08,11\].*Set MASTER_ADDR"):
        meeting_point()
    given(monkeypatch, {"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(ConfigError, match=r"set MASTER_ADDR .* and MASTER_PORT"):
        meeting_point()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"},  # sbatch, without srun
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    ],
)
def test_alone(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    given(monkeypatch, variables)
    assert place() is None


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, r'RANK = "x" in the environment is no number'),
        ({"RANK": "2", "WORLD_SIZE": "2"}, r"process 2 of 2 .* numbers go from 0"),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, r'SLURM_LOCALID = ""'),
    ],
)
def test_an_environment_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    given(monkeypatch, variables)
    with pytest.raises(ConfigError, match=said):
        place()


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert Group(6, 8, Place(6, 8, 2)).device("cuda") == "cuda:2"
    assert Group(6, 8, Place(6, 8, 2)).device("cpu") == "cpu"
    assert Group().device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match=r'"cuda:1" .* names one GPU for several processes'):
        Group(6, 8, Place(6, 8, 2)).device("cuda:1")
    with pytest.raises(ConfigError, match=r"there are 4\. .* \(--nproc-per-node=4\)"):
        Group(4, 5, Place(4, 5, 4)).device("cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    # srun --gpus-per-task=1 shows each its own
    assert Group(3, 8, Place(3, 8, 3, sees_one_gpu=True)).device("cuda") == "cuda:0"
    with pytest.raises(ConfigError, match="there are 1"):
        Group(1, 2, Place(1, 2, 1)).device("cuda")
