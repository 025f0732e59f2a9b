"""Choose the student that sounds best within a device's latency, MACs and memory."""
