"""The platform's own design as one would write it first, without any of what makes it quick."""
