"""The command line: one module a verb, with its options and what it prints; `main` finds the verb."""
