"""What a mesh tells its operators: metrics for Prometheus, spans for OpenTelemetry.

Both are made of the events that sidecars emit anyway; both libraries are imported when they are
used first, so a mesh that nobody observes costs nothing.
"""
