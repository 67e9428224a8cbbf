"""The benchmark: private services on loopback, real processes, medians and spread."""
