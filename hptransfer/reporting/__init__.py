"""What people look at: figures, the report page, and text for a terminal."""
