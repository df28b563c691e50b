"""The gateway: one task service, the store under it and the HTTP face above it.

`service.TaskService` knows every task; `app.make_app` shows it over HTTP; `server.HttpServer`
serves that in the caller's event loop; `port.MeshPort` is all that the gateway knows of a mesh.
"""
