"""What all routes share: authentication, limits, strict JSON, pages, problems."""
