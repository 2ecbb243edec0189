"""What people read about a model or a run: tables and pictures."""
