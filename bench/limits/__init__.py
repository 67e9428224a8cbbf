"""What the machine and its services can do at all, without any queue."""
