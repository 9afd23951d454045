"""The parts of benchmarks/gpu_day.sh. Only the parts themselves import torch; the command's own process does not.

plan           which parts there are, in order of worth
day            runs them one after the other: resumes, notes what fails, writes the JSON files
screen         the list of parts, and the table at the end
gpu            what nvidia-smi says, and the work that fits on the card
bases          base models with random weights, a tokenizer and rows, made on the spot
job            what a part is told, and how it says that it failed or has nothing to do here
watched        the child that is `yangtuo train` with its memory watched, or limited

tests          tests/gpu
speed          benchmarks/throughput.py on the base that was made
footprint      the estimate of memory against what a step takes
train_runs     memory that runs out, float16 that overflows, several processes
rates          matrix products, the time of an operation on the host, launches of a micro-batch
"""
