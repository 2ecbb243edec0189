"""Caption and answer metrics in pure Python: no Java, no downloads."""
