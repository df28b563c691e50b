from tests.support.gateway import gateway
from tests.support.task_service import clock, make_service, mesh, service

__all__ = ["clock", "gateway", "make_service", "mesh", "service"]
