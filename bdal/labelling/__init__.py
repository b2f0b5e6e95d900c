"""People as oracles: by files (`ask`, `tell`), or in the browser (`label`).

Everything a person says is in the ledger, on disk, before anything is done with it.
"""

from bdal.answers import read_answers
from bdal.labelling.questions import write_query
from bdal.labelling.session import label
from bdal.labelling.task import ask, tell, wanted

__all__ = ["ask", "label", "read_answers", "tell", "wanted", "write_query"]
