"""What a user asks for: every option once, and the command line and files that set them. Loads no torch."""
