from tests.distributed.launch import engines

__all__ = ["engines"]
