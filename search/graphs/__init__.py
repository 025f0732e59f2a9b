"""What an exported graph tells without running it: operators, MACs, bytes, and which network it is."""
