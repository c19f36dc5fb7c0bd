"""Every benchmark in a process of its own, then one table; exit 1 if a ratio is over its limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from timing import RESULTS, Ratio

HERE = Path(__file__).parent
LEFT_OUT = {"bench_gpu"}
"""Needs a GPU; run it by itself."""


def main() -> None:
    scripts = [path for path in sorted(HERE.glob("bench_*.py")) if path.stem not in LEFT_OUT]
    failed, ratios = [], []
    for script in scripts:
        print(f"\n{script.stem}", flush=True)
        file = RESULTS / f"{script.stem.removeprefix('bench_')}.json"
        file.unlink(missing_ok=True)  # so that figures of another commit or machine count nowhere
        code = subprocess.run([sys.executable, str(script)], check=False).returncode
        if file.is_file():
            rows = json.loads(file.read_text(encoding="utf-8"))["ratios"]
            ratios += [
                Ratio(**{key: row[key] for key in Ratio.__dataclass_fields__}) for row in rows
            ]
        elif code == 0:
            print(f"{script.stem} was left out", flush=True)
        else:
            failed.append(f"{script.stem} ended with code {code} and without figures")
    width = max((len(ratio.name) for ratio in ratios), default=0)
    print("\n" + "\n".join(ratio.line(width) for ratio in ratios))
    print("\n".join(failed))
    sys.exit(1 if failed or any(r.verdict in ("over", "under") for r in ratios) else 0)


if __name__ == "__main__":
    main()
