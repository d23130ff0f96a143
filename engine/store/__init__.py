"""The versioned store: arrays on the grid and the ledger, in one repository."""
