"""A data file -> its rows -> turns of a dialogue: bytes, formats, and what is wrong with a row."""
