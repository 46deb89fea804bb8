"""Runs every benchmark and writes the page: `python -m benchmarks`.

Each result is written to `benchmarks/results` when it is there; name some to
run those alone. On two cores all of them take about two hours.

    python -m benchmarks [train_step scaling serving ...]
"""

import argparse
import subprocess
import sys
import time

from benchmarks.page import RESULTS

COMMANDS = {
    "train_step": ["benchmarks.train_step"],
    "scaling": ["benchmarks.scaling"],
    "rewriting": ["benchmarks.rewriting"],
    "inference": ["benchmarks.inference"],
    "doors": ["benchmarks.doors"],
    "serving": ["benchmarks.serving"],
    "bank_on_tasks": ["benchmarks.bank_on_tasks", "--adapters", "app/adapters"],
    "soak": ["benchmarks.soak"],
    "two_sessions": ["benchmarks.two_sessions"],
    "generation": ["benchmarks.generation"],
    "server": ["benchmarks.server"],
    "hostile_clients": ["benchmarks.hostile_clients"],
    "peft_exchange": ["benchmarks.peft_exchange"],
    "peft_loading": ["benchmarks.peft_loading"],
    "methods": ["benchmarks.methods", "--quick"],
    "hyper_parameters": ["benchmarks.hyper_parameters"],
    "computed_once": ["benchmarks.computed_once"],
    "images": ["benchmarks.images"],
    "all_tasks": ["benchmarks.all_tasks"],
    "rematerialization": ["benchmarks.rematerialization"],
    "first_step": ["benchmarks.first_step"],
    "perplexity": ["benchmarks.perplexity"],
    "language_memory": ["benchmarks.language_memory"],
    "leaks": ["benchmarks.leaks"],
    "fuzz": ["benchmarks.fuzz"],
}


def main() -> int:
    """Runs what the command line names; the page comes last."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "names", nargs="*", help=f"of: {', '.join(COMMANDS)}; default: all"
    )
    names = parser.parse_args().names or list(COMMANDS)
    unknown = [name for name in names if name not in COMMANDS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}")
    failed = []
    for number, name in enumerate(names, 1):
        print(f"[{number} of {len(names)}] {name}", flush=True)
        start = time.perf_counter()
        command = [sys.executable, "-m", *COMMANDS[name]]
        command += ["--json", str(RESULTS / f"{name}.json")]
        if subprocess.run(command).returncode:
            failed.append(name)
        print(f"{name} took {time.perf_counter() - start:.0f} s", flush=True)
    page = subprocess.run([sys.executable, "-m", "benchmarks.page"])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or page.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
