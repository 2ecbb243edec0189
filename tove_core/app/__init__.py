"""A local web page for a trained model: `tove app`. What a request computes stands apart from the page."""
