"""What a profile knows of an operator: its letter, its table of settings, and where the operator itself is found."""

from dataclasses import dataclass

from nacdeploy.profile.tables.table import Table


@dataclass(frozen=True)
class Letter:
    """The registration of an operator, which can be read without torch: the operator is imported when it is first made.

    Attributes:
        letter: one capital letter, as it stands in chains.
        table: the name of its table in a profile.
        settings: the class of that table; every key has a default.
        operator: where the operator's class is found, as `package.module:Class`.
        package: the distribution that brings it, filled in for entry points.
    """

    letter: str
    table: str
    settings: type[Table]
    operator: str
    package: str = "nacdeploy"
