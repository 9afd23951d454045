"""The parts of benchmarks/eval.py; all contenders run in one process, on one model.

questions  what is asked: a made-up folder in C-Eval's format, dialogues with a system prompt
choices    who reads the questions with four options, and what each finds
answers    who answers the dialogues, and what each writes
measure    rounds in turns: wall and processor time, cells that the model really computed
summary    rates, ratios, whether all found the same, the table
"""
