"""The APIs of the mesh: `app.make_app` shows the task service over HTTP, `server` serves it."""
