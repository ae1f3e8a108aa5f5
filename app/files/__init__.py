"""Files of responses, item parameters and backups."""
