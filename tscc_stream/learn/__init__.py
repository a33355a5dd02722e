"""Training of TSCC models: the network, its losses, data sets, fine-tuning, export to a model package."""
