"""What pages take for granted beside `tests.docs.material`, one module for each page."""
