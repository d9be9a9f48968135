"""The server and its process: addresses and limits, signals, start and stop."""
