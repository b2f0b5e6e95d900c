"""What is on disk: durable files, the ledger, the run directory and its lock, and saved parameters."""
