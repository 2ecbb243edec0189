"""From data sets on disk to samples, batches of sample numbers and tables of frozen features."""
