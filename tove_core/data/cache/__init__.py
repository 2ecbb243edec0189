"""The feature cache on disk: what CLIP and each expert say about an image, computed once and read by mmap."""
