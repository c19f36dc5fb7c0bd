"""Whether torchrun or srun has started this process beside others, from the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from ssrseg.errors import ConfigError

_FIRST_PORT, _PORTS = 20_000, 20_000


@dataclass(frozen=True)
class Place:
    """A process among those that were started together.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        local_rank: Its number among those of its machine.
        sees_one_gpu: Its starter may show it no GPU but its own.
    """

    rank: int
    size: int
    local_rank: int
    sees_one_gpu: bool = False


def place() -> Place | None:
    """Where torchrun, srun, or whoever sets RANK and WORLD_SIZE has put this process.

    None if it was started alone. What runs in a SLURM job without srun was: that is where srun's
    SLURM_STEP_NUM_TASKS is missing, while SLURM_NTASKS is there.

    Raises:
        ConfigError: If a variable is no number, or they contradict each other.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank, size = _number("RANK"), _number("WORLD_SIZE")
        found = Place(rank, size, _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank)
    elif "SLURM_PROCID" in os.environ and "SLURM_STEP_NUM_TASKS" in os.environ:
        rank, size = _number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS")
        found = Place(rank, size, _number("SLURM_LOCALID"), sees_one_gpu=True)
    else:
        return None
    if not 0 <= found.rank < max(found.size, 1) or found.local_rank < 0:
        raise ConfigError(
            f"the environment says process {found.rank} of {found.size} (RANK, WORLD_SIZE), and"
            " numbers go from 0. Start with torchrun or srun, or unset these variables."
        )
    return found if found.size > 1 else None


def meeting_point() -> str:
    """Where the processes meet, as ``torch.distributed`` wants to be told.

    MASTER_ADDR and MASTER_PORT, as torchrun sets them; under SLURM the first machine of the step
    and a port that its job number decides.

    Raises:
        ConfigError: If nothing says where.
    """
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return "env://"
    if "SLURM_JOB_ID" not in os.environ:
        raise ConfigError(
            "RANK and WORLD_SIZE are set, but not where the processes meet. Start with torchrun, or"
            " set MASTER_ADDR (a machine's name) and MASTER_PORT (a free port on it)."
        )
    host = os.environ.get("MASTER_ADDR") or _first_host()
    step = _number("SLURM_STEP_ID") if "SLURM_STEP_ID" in os.environ else 0
    port = _FIRST_PORT + (_number("SLURM_JOB_ID") + 997 * step) % _PORTS
    return f"tcp://{host}:{os.environ.get('MASTER_PORT', port)}"


def _first_host() -> str:
    """The first machine of SLURM's list, which only SLURM's own tool can read if it is folded."""
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    folded = next((os.environ[name] for name in names if os.environ.get(name)), "")
    if folded and "[" not in folded:
        return folded.split(",")[0]
    tool = shutil.which("scontrol")
    if folded and tool:
        told = subprocess.run([tool, "show", "hostnames", folded], capture_output=True, text=True)
        if told.returncode == 0 and told.stdout.strip():
            return told.stdout.split()[0]
    raise ConfigError(
        f'where the processes meet is not known: of SLURM\'s machines "{folded}" scontrol names no'
        " first one here. Set MASTER_ADDR to the name of a machine of the job."
    )


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise ConfigError(
            f'{name} = "{text}" in the environment is no number from 0. Start with torchrun or'
            " srun, or unset it."
        )
    return int(text)
