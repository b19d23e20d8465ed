"""`python -m jobs.evaluate`: the command `appliance evaluate` as an entry point for Ray jobs.

ray job submit --working-dir . -- python -m jobs.evaluate ...
"""

from __future__ import annotations

from appliance.cli.evaluate import evaluate
from appliance.cli.main import run_command


def main() -> None:
    """Runs the command."""
    run_command(evaluate)


if __name__ == "__main__":
    main()
