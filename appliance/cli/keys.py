"""`appliance keys`: the keys that open the service, in a file that the service reads as it changes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from appliance.cli.options import Json
from appliance.cli.tables import print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Make, list and remove keys of the service.")

FileOption = Annotated[
    str, typer.Option("--file", metavar="FILE", help="File of keys, the same as `serve --keys`.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")]


@app.command()
def new(
    name: NameArgument,
    file: FileOption,
    rate: Annotated[
        str | None,
        typer.Option(metavar="N/s|N/min|N/h", help="Requests that the key may make."),
    ] = None,
    burst: Annotated[
        int | None, typer.Option(min=1, help="Requests at once after a pause; by default N.")
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="It also opens what changes the service.")
    ] = False,
) -> None:
    """Make a key, print it once, and write its hash to the file.

    Example: appliance keys new shop-floor --file keys.txt --rate 20/s
    """
    from appliance.access_keys import RateLimit, add_key
    from appliance.errors import ConfigError

    if burst is not None and rate is None:
        raise ConfigError("--burst needs a rate", hint="Add --rate 20/s")
    limit = None if rate is None else RateLimit.parse(rate, burst)
    token = add_key(file, name, rate=limit, admin=admin)
    print(token)
    sys.stdout.flush()
    print(f"The key of {name}; it is shown this once, {file} has its hash.", file=sys.stderr)


@app.command("list")
def list_keys(file: FileOption, json: Json = False) -> None:
    """List the keys of a file: names and limits, never the keys."""
    from appliance.access_keys import read_key_file

    keys = read_key_file(file)
    rows = [
        {
            "name": key.name,
            "rate": None if key.rate is None else key.rate.text,
            "burst": None if key.rate is None else key.rate.burst,
            "admin": key.admin,
            "sha256": key.sha256,
        }
        for key in keys
    ]
    if json:
        print_json({"keys": rows})
        return
    if not rows:
        print(f"No keys in {file}.")
        return
    print_table(
        ("name", "rate", "burst", "admin", "hash"),
        [
            (
                *(row["name"], row["rate"], row["burst"]),
                "yes" if row["admin"] else None,
                f"{row['sha256']:.8}",
            )
            for row in rows
        ],
    )


@app.command()
def remove(name: NameArgument, file: FileOption) -> None:
    """Take a key out of the file; a service that runs refuses it a second later."""
    from appliance.access_keys import remove_key

    remove_key(file, name)
    print(f"Removed the key of {name}.")
