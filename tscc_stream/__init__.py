"""Real-time clustering of microseismic events with TSCC: SeedLink in, clustered detections out."""

__version__ = "0.1.0"
