"""What both tests and measurements stand on, so that neither needs the other."""
