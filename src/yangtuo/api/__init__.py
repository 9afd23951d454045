"""What `import yangtuo` offers, a module a function; the command line calls the same. Loads no torch when imported.

`yangtuo/__init__.py` names what is public. The verbs of `yangtuo.cli` parse words and print; everything between is
here or below.
"""
