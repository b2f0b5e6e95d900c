"""What is on disk: durable files, the ledger, the run directory and its lock, saved parameters, a loop of one's own."""

from bdal.store.own import finish, write_round

__all__ = ["finish", "write_round"]
