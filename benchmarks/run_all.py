"""Every benchmark in a process of its own; exit 1 if one is over a limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    worst = 0
    for script in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(f"\n{script.stem}", flush=True)
        worst |= subprocess.run([sys.executable, str(script)], check=False).returncode
    sys.exit(1 if worst else 0)


if __name__ == "__main__":
    main()
