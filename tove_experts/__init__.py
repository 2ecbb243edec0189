"""The experts that come with tove: one file each, registered through the same door as anybody's."""
