import pytest
import torch


def pytest_collection_modifyitems(items):
    reason = "no CUDA device here"
    for item in items:
        if "tests/gpu/" in item.path.as_posix() and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason=reason))
