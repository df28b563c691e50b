"""The mesh on one machine: supervisor, broker, replicas, autoscaler, gateway in one process tree.

`mesh.LocalMesh` puts the parts together; every other file is one of them. Called by `asya up`.
"""
