"""What leaves the project: merged models."""
