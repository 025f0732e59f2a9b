"""What runs on the device itself: standard library, numpy and onnxruntime only."""
