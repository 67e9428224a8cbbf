"""Those whom a user would pick instead, each with its best documented configuration."""
