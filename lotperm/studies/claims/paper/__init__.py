"""The claims of the paper and of its authors' post, a module for each heading of the ledger."""
