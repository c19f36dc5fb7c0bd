"""Image-level labels in, semantic segmentation out: SSR (AAAI 2026) in PyTorch."""

__version__ = "0.1.0"
