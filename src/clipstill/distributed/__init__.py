"""Who does the work: this process, the ranks of torchrun, or tasks on a Ray cluster."""
