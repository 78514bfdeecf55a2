"""What a person reads after a run: the HTML report, the model card, the licence ledger."""
