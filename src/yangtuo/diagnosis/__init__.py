"""Whether this machine can train, and what stands in the way: versions, devices, disk, limits, environment."""
