"""nacdeploy trust"""

import click

from nacdeploy.base.errors import UsageError
from nacdeploy.cli import options, render


@click.command("trust")
@click.argument("path", required=False)
@click.option("--remove", is_flag=True, help="Take it back.")
@options.as_json
def command(path: str | None, remove: bool, as_json: bool) -> None:
    from nacdeploy.commands import trust as trusting

    if path is None:
        if remove:
            raise UsageError("say what to take back: nacdeploy trust PATH --remove")
        found = trusting.trusted()
        render.print_json(found) if as_json else click.echo("\n".join(lines()))
        return
    done = trusting.trust(path, remove=remove)
    render.print_json(done) if as_json else click.echo("\n".join(f"{each} {done.says}" for each in done.paths))


def lines() -> list[str]:
    """Return a line for each file that is trusted."""
    from nacdeploy.commands import trust as trusting

    found = trusting.trusted()
    state = {True: "may run", False: "has changed or is gone, and does not run"}
    return [f"{each.path} {state[each.is_unchanged]} (sha256 {each.sha256[:12]})" for each in found] or [
        "no file of code is trusted"
    ]
