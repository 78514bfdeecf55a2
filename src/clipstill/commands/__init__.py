"""What is done with a run: run it, grow it, measure it, export it, reproduce protocols."""
