"""Federated fine-tuning by randomized asymmetric chains of low-rank adaptation (arXiv 2410.08305), on Flower."""
