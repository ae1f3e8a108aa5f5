"""HTTP in, HTTP out: a route reads the request, opens one transaction and calls a service."""
