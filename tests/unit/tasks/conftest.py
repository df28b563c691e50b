from tests.support.task_service import clock, make_service, mesh, service

__all__ = ["clock", "make_service", "mesh", "service"]
