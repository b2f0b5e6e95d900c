"""People as oracles: by files (`ask`, `tell`), or in the browser (`label`).

Everything a person says is in the ledger, on disk, before anything is done with it.
"""

from bdal.experiment.people.session import label
from bdal.experiment.people.task import ask, tell, wanted

__all__ = ["ask", "label", "tell", "wanted"]
