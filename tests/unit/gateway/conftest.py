from tests.support.gateway import gateway
from tests.support.task_service import blobs, claiming_service, clock, make_service, mesh, service

__all__ = ["blobs", "claiming_service", "clock", "gateway", "make_service", "mesh", "service"]
