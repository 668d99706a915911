"""The facts of an operator for a profile: its letter, its table of settings, and the place of the operator itself."""

from dataclasses import dataclass

from nacdeploy.profile.tables.table import Table


@dataclass(frozen=True)
class Letter:
    """The registration of an operator, which can be read without torch: the operator is imported when it is first made.

    Attributes:
        letter: one capital letter, as it stands in chains.
        table: the name of its table in a profile.
        settings: the class of that table; every key has a default.
        operator: the place of the operator's class, as `package.module:Class`.
        package: the distribution that brings the operator, filled in for entry points.
    """

    letter: str
    table: str
    settings: type[Table]
    operator: str
    package: str = "nacdeploy"
