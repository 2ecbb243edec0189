"""`tove bench claims`: what the method claims, put to the test over seeds, at equal size, steps and language model."""
