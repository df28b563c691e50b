"""The task service: every envelope that a client sent, from admission to its end.

Knows no HTTP and no SQL: `gateway` has the APIs, `store` has the databases.
"""
