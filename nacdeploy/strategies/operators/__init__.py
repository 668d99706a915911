"""The letters that there are, and their tables. Adding one: its folder and one line of OPERATORS.

Everything here is light: a profile is read without torch. `strategies/steps/letters.py` makes the operators.
"""

from nacdeploy.strategies.operators.add_exits.settings import LETTER as EXITS
from nacdeploy.strategies.operators.code.settings import LETTER as CODE
from nacdeploy.strategies.operators.decompose.settings import LETTER as DECOMPOSE
from nacdeploy.strategies.operators.finetune.settings import LETTER as FINETUNE
from nacdeploy.strategies.operators.letter import Letter
from nacdeploy.strategies.operators.prune.settings import LETTER as PRUNE
from nacdeploy.strategies.operators.quantize.settings import LETTER as QUANTIZE
from nacdeploy.strategies.operators.sparsify.settings import LETTER as SPARSIFY

OPERATORS: tuple[Letter, ...] = (FINETUNE, PRUNE, EXITS, QUANTIZE, SPARSIFY, DECOMPOSE, CODE)
