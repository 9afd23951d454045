from tests.distributed.launch import engines, whole

__all__ = ["engines", "whole"]
