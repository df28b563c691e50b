"""The HTTP API: routes, the JSON shapes of requests and answers, problem documents."""
