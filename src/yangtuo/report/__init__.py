"""What a run has written, as one page: a folder is read, nothing is computed anew, and no torch is loaded."""
