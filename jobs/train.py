"""`python -m jobs.train`: the command `appliance train` as an entry point for Ray jobs.

ray job submit --working-dir . -- python -m jobs.train ...
"""

from __future__ import annotations

from appliance.cli.main import run_command
from appliance.cli.train import train


def main() -> None:
    """Runs the command."""
    run_command(train)


if __name__ == "__main__":
    main()
