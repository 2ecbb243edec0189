"""One module per data set format; `tove_core.data.readers` names them."""
