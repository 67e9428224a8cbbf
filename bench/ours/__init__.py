"""The platform under measurement: its documented processes, driven by the peers' scenario."""
